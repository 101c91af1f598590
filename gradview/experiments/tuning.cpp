#include "gradview/experiments/tuning.hpp"

#include <cmath>
#include <iterator>
#include <tuple>

namespace gradview {
namespace {

constexpr int kHalfDecade = kPerDecade / 2;
constexpr int kLowest = -8 * kPerDecade;
constexpr int kHighest = 5 * kPerDecade;

}  // namespace

double rate_at(int notch) { return std::pow(10.0, static_cast<double>(notch) / kPerDecade); }

int best_notch(const Tried& tried) {
  const auto rank = [&](int notch) {  // of equals, one that is refined already, then the largest
    const bool refined = tried.count(notch - 1) > 0 && tried.count(notch + 1) > 0;
    return std::tuple(tried.at(notch), refined, notch);
  };
  int best = tried.begin()->first;
  for (const auto& [notch, score] : tried) {
    if (rank(notch) > rank(best)) best = notch;
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
  if (tried.size() == 1) return {best - kHalfDecade, best + kHalfDecade};
  const auto rises_to = [&](int edge, int inner) { return tried.at(edge) > tried.at(inner); };
  if (best == highest && best + kHalfDecade <= kHighest &&
      rises_to(best, std::prev(tried.end(), 2)->first)) {
    return {best + kHalfDecade};
  }
  if (best == lowest && best - kHalfDecade >= kLowest &&
      rises_to(best, std::next(tried.begin())->first)) {
    return {best - kHalfDecade};
  }
  std::vector<int> next;
  for (const int neighbour : {best - 1, best + 1}) {
    if (neighbour >= kLowest && neighbour <= kHighest && tried.count(neighbour) == 0) {
      next.push_back(neighbour);
    }
  }
  return next;
}

}  // namespace gradview
