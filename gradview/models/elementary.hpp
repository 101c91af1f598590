// Elementary functions without branches or calls, so that loops over them vectorise. In double they
// are the standard library's; in float:
//
//   exp x  = 2ᵏ (1 + r + r² q(r)),  r = x − k log 2                          within 3 units
//   Φ(−z)  = exp(−z²/2) t p(t),     t = 1 / (1 + 0.345 z),  z >= 0           within 4 units near 0,
//            growing as the rounding of z² does: by z²/2
//
// in the last place; q and p are minimax in the relative error. exp x is 0 below the smallest normal
// number and finite above the largest: there it is 2¹²⁸ less a little.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "gradview/core/real.hpp"

namespace gradview {

#ifdef GRADVIEW_DOUBLE

inline Real exponential(Real x) { return std::exp(x); }

struct Normal {
  Real cdf, density;
};
inline Normal normal_at(Real z) {
  return {std::erfc(-z / std::numbers::sqrt2) / 2,
          std::exp(-z * z / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2};
}

#else

inline Real exponential(Real x) {
  constexpr float kShift = 0x1.8p23F, kLargest = 88.72283F, kSmallest = -87.33654F;
  constexpr float kHigh = 0x1.62e4p-1F, kLow = 0x1.7f7d1cp-20F;  // log 2
  float c = x < kLargest ? x : kLargest;                         // NaN: below
  c = c > kSmallest ? c : kSmallest;
  const float shifted = c * std::numbers::log2e_v<float> + kShift, k = shifted - kShift;
  const float r = (c - k * kHigh) - k * kLow;
  float q = 0.00138144850F;
  q = q * r + 0.00836877990F;
  q = q * r + 0.0416683938F;
  q = q * r + 0.166665201F;
  q = q * r + 0.499999934F;
  const float y = 1 + (r + r * r * q);
  const auto power = std::bit_cast<std::uint32_t>(shifted) << 23;
  const float scaled = std::bit_cast<float>(std::bit_cast<std::uint32_t>(y) + power);
  return x >= kSmallest ? scaled : (x < kSmallest ? 0.0F : x);
}

struct Normal {
  Real cdf, density;  // Φ(z) and φ(z)
};
inline Normal normal_at(Real z) {
  const float a = std::fabs(z), t = 1 / (1 + 0.345F * a);
  const float e = exponential(-0.5F * z * z);
  float p = -0.028381933F;
  p = p * t + 0.145281857F;
  p = p * t - 0.271172871F;
  p = p * t + 0.187196459F;
  p = p * t - 0.0376015349F;
  p = p * t + 0.111799613F;
  p = p * t + 0.117238298F;
  p = p * t + 0.138020884F;
  p = p * t + 0.13761929F;
  const float tail = e * (t * p);
  return {z > 0 ? 1 - tail : tail, e * 0.398942280F};
}

#endif

inline Real sigmoid(Real x) { return 1 / (1 + exponential(-x)); }

}  // namespace gradview
