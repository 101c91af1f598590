// Sums and maxima of one row, in a fixed number of lanes: the same bits everywhere, and vectors for
// the compiler, which must not reorder sums by itself.
#pragma once

#include <algorithm>
#include <cstddef>

#include "gradview/core/real.hpp"

namespace gradview {

constexpr std::size_t kLanes = 16;

// Σ_i f(i), i < n.
template <class F>
inline Real lane_sum(std::size_t n, const F& f) {
  Real lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) lanes[l] += f(i + l);
  }
  for (std::size_t l = 0; i + l < n; ++l) lanes[l] += f(i + l);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

inline Real lane_max(const Real* x, std::size_t n) {  // n >= 1; NaN may be passed over
  Real lanes[kLanes];
  std::fill_n(lanes, kLanes, x[0]);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) lanes[l] = lanes[l] < x[i + l] ? x[i + l] : lanes[l];
  }
  for (std::size_t l = 0; i + l < n; ++l) lanes[l] = lanes[l] < x[i + l] ? x[i + l] : lanes[l];
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) {
      lanes[l] = lanes[l] < lanes[l + half] ? lanes[l + half] : lanes[l];
    }
  }
  return lanes[0];
}

}  // namespace gradview
