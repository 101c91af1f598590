// The search for a curve's learning rate and knob, as rules over what has been tried.
#pragma once

#include <compare>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace gradview {

constexpr int kPerDecade = 8;
double rate_at(int notch);  // 10^(notch/8)
int notch_of(double rate);  // the nearest

// Until nothing is better: a grid of half-decades, widened while its best sits on an edge, then
// refined round the best in steps of 10^(1/8) until both neighbours are worse or diverged.

using Tried = std::map<int, double>;  // notch → score, higher is better; −∞ where it diverged

// The notches to try next, none when the search is over. An empty `tried` gives the first grid.
std::vector<int> next_notches(const Tried& tried, const std::string& optimizer);
int best_notch(const Tried& tried);  // of equals, one whose neighbours were tried, then the largest

// Exactly so many trials: the grid at the knob's first value, widened while its best sits on an
// edge; the knob's other values at the best rate; then round the best of all, rates half a decade
// away on both sides, then a quarter, then an eighth, then the other values at its rate. What is
// left goes to the second best in the same way, and so on. The rule knows no method.

struct Trial {
  std::size_t value;  // of the knob, counted from 0
  int notch;          // of the rate
  auto operator<=>(const Trial&) const = default;
};
using Trials = std::map<Trial, double>;  // → score

constexpr std::size_t kMostTrials = 100;       // there are 105 rates
std::size_t least_trials(std::size_t values);  // the grid, and once every other value

// The trials to do next, none once there are `budget`; values: of the knob, 1 where there is none.
std::vector<Trial> next_trials(const Trials& done, std::size_t values, std::size_t budget,
                               const std::string& optimizer);
Trial best_trial(const Trials& done);

}  // namespace gradview
