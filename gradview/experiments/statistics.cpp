#include "gradview/experiments/statistics.hpp"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>
#include <numeric>

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Sample {
  double mean, error, freedom;  // error: of the mean
};

Sample sample(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (n - 1) / n), n - 1};
}

}  // namespace

Interval t_interval(const std::vector<double>& values) {
  if (values.empty()) return {kNaN, kNaN, kNaN};
  if (values.size() < 2) return {values[0], kNaN, kNaN};
  const Sample s = sample(values);
  if (!std::isfinite(s.mean)) return {s.mean, kNaN, kNaN};
  const double half = s.error * boost::math::quantile(boost::math::students_t(s.freedom), 0.975);
  return {s.mean, s.mean - half, s.mean + half};
}

double t_test(const std::vector<double>& differences) {
  if (differences.size() < 2) return kNaN;
  const Sample s = sample(differences);
  if (!std::isfinite(s.mean)) return kNaN;
  if (s.error == 0) return s.mean == 0 ? 1 : 0;
  return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(s.freedom),
                                                      std::abs(s.mean / s.error)));
}

std::vector<double> holm(const std::vector<double>& p_values) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < p_values.size(); ++i) {
    if (!std::isnan(p_values[i])) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size(), kNaN);
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const double scaled = static_cast<double>(order.size() - rank) * p_values[order[rank]];
    largest = std::max(largest, std::min(1.0, scaled));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

double median(std::vector<double> values) {
  if (values.empty()) return kNaN;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string verdict(const Interval& difference, double adjusted_p, double margin) {
  if (difference.low >= -margin && difference.high <= margin) return "equivalent";
  if (adjusted_p < 0.05) return difference.mean > 0 ? "better" : "worse";
  return "undecided";
}

}  // namespace gradview
