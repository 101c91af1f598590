// Sums by strides, rows and columns from one read, and what undoes them.
//     columns(i, j mod r) = Σ_j a(i, j)       rows_sum(i mod r, j) += a(i, j)
//     w(i, j) += u(i, j mod r) + v(i mod r, j)
//
//     for i in rows
//       for j in periods of p columns             p: the multiple of r that is whole vectors
//         sums_(j mod p) += a_ij                  in registers where p is four vectors
//         rows_sum_(i mod r, j) += a_ij           in L1
//
// One load of `a` feeds both. r that divides four vectors (all powers of two up to there) have p of
// just that; for the others the sums are in L1 too, and a period longer than kLongestPeriod is r
// itself, entry by entry.
#pragma once

#include <algorithm>
#include <numeric>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/vector.hpp"

namespace gradview::GRADVIEW_ISA {

constexpr std::size_t kLongestPeriod = 16 * kWidth;

inline std::size_t period(std::size_t r) {
  return 4 * kWidth % r == 0 ? 4 * kWidth : std::lcm(r, kWidth);
}

// sums(j mod p) += row(j), to(j) += row(j) where there is a `to`.
template <bool Rows>
GRADVIEW_INLINE void fold_row(const Real* row, std::size_t n, std::size_t p, Real* sums, Real* to) {
  std::size_t j = 0;
  const auto take = [&](std::size_t at) __attribute__((always_inline)) {
    const Vector x = load(row + at);
    if constexpr (Rows) (load(to + at) + x).store_unaligned(to + at);
    return x;
  };
  if (p == 4 * kWidth) {
    Vector all[4];
    unroll<4>([&](auto v) { all[v] = load(sums + v * kWidth); });
    for (; j + p <= n; j += p) {
      unroll<4>([&](auto v) { all[v] = all[v] + take(j + v * kWidth); });
    }
    unroll<4>([&](auto v) { all[v].store_unaligned(sums + v * kWidth); });
  } else {
    for (; j + p <= n; j += p) {
      for (std::size_t v = 0; v < p; v += kWidth) {
        (load(sums + v) + take(j + v)).store_unaligned(sums + v);
      }
    }
  }
  for (std::size_t k = 0; j + k < n; ++k) {
    sums[k] += row[j + k];
    if constexpr (Rows) to[j + k] += row[j + k];
  }
}

inline void fold(const FoldBlock& b) {
  const std::size_t p = period(b.r);
  for (std::size_t i = 0; i < b.rows; ++i) {
    const Real* row = b.a + i * b.n;
    Real* to = b.rows_sum ? b.rows_sum + (b.first + i) % b.r * b.n : nullptr;
    Real* out = b.columns ? b.columns + i * b.r : nullptr;
    if (out) std::fill(out, out + b.r, Real{0});
    if (p > kLongestPeriod) {
      for (std::size_t j = 0; j < b.n; ++j) {
        if (to) to[j] += row[j];
        if (out) out[j % b.r] += row[j];
      }
      continue;
    }
    Real sums[kLongestPeriod] = {};
    to ? fold_row<true>(row, b.n, p, sums, to) : fold_row<false>(row, b.n, p, sums, to);
    if (!out) continue;
    std::size_t left = p;
    for (; left % 2 == 0 && left / 2 % b.r == 0; left /= 2) {  // by halves
      for (std::size_t k = 0; k < left / 2; ++k) sums[k] += sums[left / 2 + k];
    }
    for (std::size_t first = 0; first < left; first += b.r) {
      for (std::size_t k = 0; k < b.r; ++k) out[k] += sums[first + k];
    }
  }
}

inline void unfold(const UnfoldBlock& b) {
  const std::size_t p = period(b.r);
  for (std::size_t i = 0; i < b.rows; ++i) {
    Real* row = b.w + i * b.n;
    const Real* u = b.u + i * b.r;
    const Real* v = b.v + (b.first + i) % b.r * b.n;
    if (p > kLongestPeriod) {
      for (std::size_t j = 0; j < b.n; ++j) row[j] += u[j % b.r] + v[j];
      continue;
    }
    Real left[kLongestPeriod];
    std::copy_n(u, b.r, left);
    for (std::size_t filled = b.r; filled < p; filled *= 2) {
      std::copy_n(left, std::min(filled, p - filled), left + filled);
    }
    const auto add = [&](std::size_t j, const Vector& x) __attribute__((always_inline)) {
      (load(row + j) + (x + load(v + j))).store_unaligned(row + j);
    };
    std::size_t j = 0;
    if (p == 4 * kWidth) {
      Vector all[4];
      unroll<4>([&](auto c) { all[c] = load(left + c * kWidth); });
      for (; j + p <= b.n; j += p) unroll<4>([&](auto c) { add(j + c * kWidth, all[c]); });
    } else {
      for (; j + p <= b.n; j += p) {
        for (std::size_t c = 0; c < p; c += kWidth) add(j + c, load(left + c));
      }
    }
    for (std::size_t k = 0; j + k < b.n; ++k) row[j + k] += left[k] + v[j + k];
  }
}

}  // namespace gradview::GRADVIEW_ISA
