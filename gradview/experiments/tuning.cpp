#include "gradview/experiments/tuning.hpp"

#include <cmath>

namespace gradview {
namespace {

constexpr int kHalfDecade = kPerDecade / 2;
constexpr int kLowest = -8 * kPerDecade;
constexpr int kHighest = 5 * kPerDecade;

}  // namespace

double rate_at(int notch) { return std::pow(10.0, static_cast<double>(notch) / kPerDecade); }

int best_notch(const Tried& tried) {
  int best = tried.begin()->first;
  for (const auto& [notch, score] : tried) {
    if (score >= tried.at(best)) best = notch;
  }
  return best;
}

std::vector<int> next_notches(const Tried& tried, const std::string& optimizer) {
  if (tried.empty()) {
    const int middle = optimizer.rfind("sgd", 0) == 0 ? -kPerDecade : -3 * kPerDecade;
    std::vector<int> grid;
    for (int half = -2; half <= 2; ++half) grid.push_back(middle + half * kHalfDecade);
    return grid;
  }
  const int lowest = tried.begin()->first;
  const int highest = tried.rbegin()->first;
  const int best = best_notch(tried);
  if (std::isinf(tried.at(best))) {  // everything diverged
    return lowest - kHalfDecade >= kLowest ? std::vector{lowest - kHalfDecade} : std::vector<int>{};
  }
  if (best == highest && best + kHalfDecade <= kHighest) return {best + kHalfDecade};
  if (best == lowest && best - kHalfDecade >= kLowest) return {best - kHalfDecade};
  std::vector<int> next;
  for (const int neighbour : {best - 1, best + 1}) {
    if (neighbour >= kLowest && neighbour <= kHighest && tried.count(neighbour) == 0) {
      next.push_back(neighbour);
    }
  }
  return next;
}

}  // namespace gradview
