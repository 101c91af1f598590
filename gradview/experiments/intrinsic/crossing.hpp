// The number of trained directions from which on training reaches a part of what full-rank training
// reaches.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "gradview/experiments/statistics.hpp"

namespace gradview {

struct Reached {
  double directions;  // numbers trained
  double ratio;       // of the accuracy, or of the gain over the start, to full's
};

// Where the ratio first rises to `part`, in order of directions: between two points by a straight
// line over log(directions); the first point where it lies there already; ∞ where it never does.
double crossing(const std::vector<Reached>& points, double part);

struct Crossing {
  Interval directions;  // geometric mean over the seeds, t interval of the logarithm
  std::size_t seeds, missed,
      at_once;  // seeds that never reach it, that reach it at the first point
};
// NaN where a seed never reaches it: then there is no mean.
Crossing summarise(const std::vector<double>& crossings, double first_point);

// holds: the whole interval lies below `low`; does not: above; else undecided. Seeds that missed
// count as above, unless `reachable`, the largest number tried, lies below `low`.
std::string judge_low(const Crossing& crossing, double low, double reachable);

}  // namespace gradview
