// The search for a curve's learning rate, as a rule over what has been tried: a grid of
// half-decades, widened while its best sits on an edge, then refined round the best in steps of
// 10^(1/8) until both neighbours are worse or diverged.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace gradview {

constexpr int kPerDecade = 8;
double rate_at(int notch);  // 10^(notch/8)

using Tried = std::map<int, double>;  // notch → score, higher is better; −∞ where it diverged

// The notches to try next, none when the search is over. An empty `tried` gives the first grid.
std::vector<int> next_notches(const Tried& tried, const std::string& optimizer);
int best_notch(const Tried& tried);  // of equals, one whose neighbours were tried, then the largest

}  // namespace gradview
