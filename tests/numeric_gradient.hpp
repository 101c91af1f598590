// Gradients against central differences, in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "gradview/core/matrix.hpp"

namespace gradview {

// Differences of step h are off by h² f‴/6 and by rounding, some ε f/h: extrapolated from h and h/2,
// (4 D(h/2) − D(h))/3, the first becomes h⁴ f⁗′/480, below 1e-10 for h = 3e-4 and derivatives below
// 10⁷, and the second ε f/h = 1e-12 for losses of a few units.
constexpr double numeric_step = 3e-4;
constexpr double numeric_tolerance = 1e-9;  // times max(1, ‖g‖∞)

using Loss = std::function<double()>;

inline double slope_at(double& entry, const Loss& loss) {
  const double before = entry;
  const auto central = [&](double h) {
    entry = before + h;
    const double above = loss();
    entry = before - h;
    const double slope = (above - loss()) / (2 * h);
    entry = before;
    return slope;
  };
  return (4 * central(numeric_step / 2) - central(numeric_step)) / 3;
}

inline testing::AssertionResult is_gradient(const Matrix& g, Matrix& at, const Loss& loss) {
  if (shape_of(g) != shape_of(at)) {
    return testing::AssertionFailure() << "shape " << to_string(shape_of(g));
  }
  double largest = 1;
  for (const double x : g) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double numeric = slope_at(at.data()[i], loss);
    if (std::abs(g.data()[i] - numeric) <= numeric_tolerance * largest) continue;
    return testing::AssertionFailure()
           << "entry " << i << " is " << g.data()[i] << ", by differences " << numeric;
  }
  return testing::AssertionSuccess();
}

}  // namespace gradview
