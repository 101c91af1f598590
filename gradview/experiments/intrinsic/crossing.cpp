#include "gradview/experiments/intrinsic/crossing.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace gradview {

double crossing(const std::vector<Reached>& points, double part) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!(points[i].ratio >= part)) continue;
    if (i == 0) return points[0].directions;
    const double from = std::log(points[i - 1].directions);
    const double to = std::log(points[i].directions);
    const double before = points[i - 1].ratio;
    // a run that diverged has no ratio to interpolate from
    const double share = std::isfinite(before) ? (part - before) / (points[i].ratio - before) : 1;
    return std::exp(from + (to - from) * share);
  }
  return std::numeric_limits<double>::infinity();
}

Crossing summarise(const std::vector<double>& crossings, double first_point) {
  Crossing out{{}, crossings.size(), 0, 0};
  std::vector<double> logarithms;
  for (const double each : crossings) {
    out.missed += std::isinf(each);
    out.at_once += each <= first_point;
    logarithms.push_back(std::log(each));
  }
  if (out.missed > 0) {
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    out.directions = {kNaN, kNaN, kNaN};
    return out;
  }
  const Interval i = t_interval(logarithms);
  out.directions = {std::exp(i.mean), std::exp(i.low), std::exp(i.high)};
  return out;
}

std::string judge_low(const Crossing& crossing, double low, double reachable) {
  if (crossing.missed == crossing.seeds) return reachable >= low ? "does not" : "undecided";
  if (crossing.missed > 0) return "undecided";
  if (crossing.directions.high < low) return "holds";
  return crossing.directions.low > low ? "does not" : "undecided";
}

}  // namespace gradview
