// Adam and momentum over whole arrays, one pass.
//     m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  direction = s₁ m / (√v s₂ + ε)
//     w ← keep w − lr direction
//
//     for i in numbers        28 bytes of traffic each in float: g, m, v, w read, m, v, w written
//
// No tile: memory bounds it. The square root is a vector instruction under -fno-math-errno.
#pragma once

#include <cmath>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/vector.hpp"

namespace gradview::GRADVIEW_ISA {

GRADVIEW_INLINE Real adam_direction(const AdamStep& s, Real g, Real& m, Real& v) {
  m = s.beta1 * m + s.rest1 * g;
  v = s.beta2 * v + s.rest2 * g * g;
  return s.first_scale * m / (std::sqrt(v) * s.root_scale + s.eps);
}

GRADVIEW_INLINE Real adam_direction(const AdamStep& s, Real g, Real& v) {  // β₁ = 0
  v = s.beta2 * v + s.rest2 * g * g;
  return g / (std::sqrt(v) * s.root_scale + s.eps);
}

inline void adam(const AdamStep& step, std::size_t count, Real* __restrict g, Real* __restrict m,
                 Real* __restrict v) {
  const AdamStep s = step;
  if (m) {
    for (std::size_t i = 0; i < count; ++i) g[i] = adam_direction(s, g[i], m[i], v[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) g[i] = adam_direction(s, g[i], v[i]);
  }
}

inline void adam_move(const AdamStep& step, const Move& move, std::size_t count, Real* __restrict w,
                      const Real* __restrict g, Real* __restrict m, Real* __restrict v) {
  const AdamStep s = step;
  const Move o = move;
  if (m) {
    for (std::size_t i = 0; i < count; ++i) {
      const Real d = adam_direction(s, g[i] + o.pull * w[i], m[i], v[i]);
      w[i] = o.keep * w[i] - o.lr * d;
    }
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      const Real d = adam_direction(s, g[i] + o.pull * w[i], v[i]);
      w[i] = o.keep * w[i] - o.lr * d;
    }
  }
}

template <bool First, bool Nesterov>
GRADVIEW_INLINE Real momentum_direction(Real mu, Real g, Real& b) {
  b = First ? g : mu * b + g;
  return Nesterov ? g + mu * b : b;
}

template <class Loop>
GRADVIEW_INLINE void with_constants(bool first, bool nesterov, const Loop& loop) {
  if (first)
    return nesterov ? loop(std::true_type(), std::true_type())
                    : loop(std::true_type(), std::false_type());
  nesterov ? loop(std::false_type(), std::true_type()) : loop(std::false_type(), std::false_type());
}

inline void momentum(Real mu, bool first, bool nesterov, std::size_t count, Real* __restrict g,
                     Real* __restrict b) {
  with_constants(
      first, nesterov, [&](auto f, auto n) __attribute__((always_inline)) {
        for (std::size_t i = 0; i < count; ++i) g[i] = momentum_direction<f(), n()>(mu, g[i], b[i]);
      });
}

inline void momentum_move(Real mu, bool first, bool nesterov, const Move& move, std::size_t count,
                          Real* __restrict w, const Real* __restrict g, Real* __restrict b) {
  const Move o = move;
  if (!b) {
    for (std::size_t i = 0; i < count; ++i) w[i] = o.keep * w[i] - o.lr * (g[i] + o.pull * w[i]);
    return;
  }
  with_constants(
      first, nesterov, [&](auto f, auto n) __attribute__((always_inline)) {
        for (std::size_t i = 0; i < count; ++i) {
          const Real d = momentum_direction<f(), n()>(mu, g[i] + o.pull * w[i], b[i]);
          w[i] = o.keep * w[i] - o.lr * d;
        }
      });
}

}  // namespace gradview::GRADVIEW_ISA
