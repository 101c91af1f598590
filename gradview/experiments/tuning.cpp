#include "gradview/experiments/tuning.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <tuple>

namespace gradview {
namespace {

constexpr int kHalfDecade = kPerDecade / 2;
constexpr int kLowest = -8 * kPerDecade;
constexpr int kHighest = 5 * kPerDecade;

std::vector<int> grid(const std::string& optimizer) {
  const int middle = optimizer.rfind("sgd", 0) == 0 ? -kPerDecade : -3 * kPerDecade;
  std::vector<int> notches;
  for (int half = -2; half <= 2; ++half) notches.push_back(middle + half * kHalfDecade);
  return notches;
}

// The notch beyond the edge that the best sits on, or below all where everything diverged.
std::optional<int> wider(const Tried& tried) {
  const int lowest = tried.begin()->first;
  const int highest = tried.rbegin()->first;
  const int best = best_notch(tried);
  const bool all_diverged = std::isinf(tried.at(best));
  const auto rises_to = [&](int edge, int inner) { return tried.at(edge) > tried.at(inner); };
  if (!all_diverged && best == highest && best + kHalfDecade <= kHighest &&
      rises_to(best, std::prev(tried.end(), 2)->first)) {
    return best + kHalfDecade;
  }
  if (lowest - kHalfDecade >= kLowest &&
      (all_diverged || (best == lowest && rises_to(best, std::next(tried.begin())->first)))) {
    return lowest - kHalfDecade;
  }
  return std::nullopt;
}

// From the best to the worst; of equals the highest rate, where they diverged the lowest.
std::vector<Trial> ranked(const Trials& done) {
  std::vector<Trial> order;
  for (const auto& [trial, score] : done) order.push_back(trial);
  const auto key = [&](const Trial& trial) {
    const double score = done.at(trial);
    return std::pair(-score, std::isinf(score) ? trial.notch : -trial.notch);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const Trial& a, const Trial& b) { return key(a) < key(b); });
  return order;
}

// The nearest ring round `centre` that is not done yet; empty where all are.
std::vector<Trial> ring(const Trials& done, const Trial& centre, std::size_t values) {
  std::vector<Trial> out;
  const auto add = [&](const Trial& trial) {
    if (trial.notch >= kLowest && trial.notch <= kHighest && done.count(trial) == 0) {
      out.push_back(trial);
    }
  };
  for (int step = kHalfDecade; step > 0 && out.empty(); step /= 2) {
    add({centre.value, centre.notch - step});
    add({centre.value, centre.notch + step});
  }
  if (!out.empty()) return out;
  for (std::size_t value = 0; value < values; ++value) add({value, centre.notch});
  return out;
}

}  // namespace

double rate_at(int notch) { return std::pow(10.0, static_cast<double>(notch) / kPerDecade); }

int notch_of(double rate) { return static_cast<int>(std::lround(kPerDecade * std::log10(rate))); }

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
  if (tried.empty()) return grid(optimizer);
  const int best = best_notch(tried);
  const bool all_diverged = std::isinf(tried.at(best));
  if (tried.size() == 1 && !all_diverged) return {best - kHalfDecade, best + kHalfDecade};
  if (const auto notch = wider(tried)) return {*notch};
  std::vector<int> next;
  if (all_diverged) return next;
  for (const int neighbour : {best - 1, best + 1}) {
    if (neighbour >= kLowest && neighbour <= kHighest && tried.count(neighbour) == 0) {
      next.push_back(neighbour);
    }
  }
  return next;
}

std::size_t least_trials(std::size_t values) { return grid("").size() + values - 1; }

std::vector<Trial> next_trials(const Trials& done, std::size_t values, std::size_t budget,
                               const std::string& optimizer) {
  std::vector<Trial> next;
  if (done.empty()) {
    for (const int notch : grid(optimizer)) next.push_back({0, notch});
    return next;
  }
  const std::size_t left = budget - std::min(budget, done.size());
  if (left == 0) return next;
  if (done.rbegin()->first.value == 0 && left >= values) {  // one more, and the other values
    Tried rates;
    for (const auto& [trial, score] : done) rates[trial.notch] = score;
    if (const auto notch = wider(rates)) return {{0, *notch}};
  }
  const std::vector<Trial> order = ranked(done);
  if (done.rbegin()->first.value == 0) {
    for (std::size_t value = 1; value < values; ++value) next.push_back({value, order[0].notch});
  }
  for (std::size_t i = 0; i < order.size() && next.empty(); ++i) {
    next = ring(done, order[i], values);
  }
  next.resize(std::min(next.size(), left));
  return next;
}

Trial best_trial(const Trials& done) { return ranked(done).front(); }

}  // namespace gradview
