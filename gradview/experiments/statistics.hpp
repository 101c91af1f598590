// Paired comparison of a few seeds: t intervals, Holm's correction, and a verdict that may be
// "undecided".
#pragma once

#include <string>
#include <vector>

namespace gradview {

struct Interval {  // two-sided 95 % t interval of the mean; low and high are NaN below two values
  double mean, low, high;
};

Interval t_interval(const std::vector<double>& values);
double t_test(
    const std::vector<double>& differences);  // two-sided p of mean = 0; NaN below two values
std::vector<double> holm(
    const std::vector<double>& p_values);   // adjusted, in the order given; NaN stays out of it
double median(std::vector<double> values);  // lower of the middle two; infinities take part

// equivalent: the interval lies inside ±margin; better, worse: adjusted p below 0.05; else
// undecided.
std::string verdict(const Interval& difference, double adjusted_p, double margin);

}  // namespace gradview
