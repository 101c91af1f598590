// Sums by strides, rows and columns from one read, and what undoes them.
//     columns(i, j mod r) = Σ_j a(i, j)       rows_sum(i mod r, j) += a(i, j)
//     w(i, j) += u(i, j mod r) + v(i mod r, j)
//
//     for i in rows
//       for j in periods of p columns            p: the multiple of r that fills some vectors
//         sums_(j mod p) += a_ij                 in L1, as the r x n sums of columns are
//         rows_sum_(i mod r, j) += a_ij
//
// One load of `a` feeds both; the loops are plain, and as wide as the compiler makes them.
#pragma once

#include <algorithm>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/vector.hpp"

namespace gradview::GRADVIEW_ISA {

constexpr std::size_t kLongestPeriod = 256;

// A multiple of r: sums modulo it fold into sums modulo r. r itself where that is long enough.
constexpr std::size_t period(std::size_t r) { return r * std::max<std::size_t>(1, 4 * kWidth / r); }

inline void fold(const FoldBlock& b) {
  const std::size_t p = period(b.r);
  for (std::size_t i = 0; i < b.rows; ++i) {
    const Real* row = b.a + i * b.n;
    if (b.rows_sum) {
      Real* sums = b.rows_sum + (b.first + i) % b.r * b.n;
      for (std::size_t j = 0; j < b.n; ++j) sums[j] += row[j];
    }
    if (!b.columns) continue;
    Real* out = b.columns + i * b.r;
    std::fill(out, out + b.r, Real{0});
    if (p > kLongestPeriod) {  // r is long itself
      for (std::size_t j = 0; j < b.n; j += b.r) {
        const std::size_t count = std::min(b.r, b.n - j);
        for (std::size_t k = 0; k < count; ++k) out[k] += row[j + k];
      }
      continue;
    }
    Real sums[kLongestPeriod] = {};
    std::size_t j = 0;
    for (; j + p <= b.n; j += p) {
      for (std::size_t k = 0; k < p; ++k) sums[k] += row[j + k];
    }
    for (std::size_t k = 0; j + k < b.n; ++k) sums[k] += row[j + k];
    for (std::size_t k = 0; k < p; ++k) out[k % b.r] += sums[k];
  }
}

inline void unfold(const UnfoldBlock& b) {
  const std::size_t p = period(b.r);
  for (std::size_t i = 0; i < b.rows; ++i) {
    Real* row = b.w + i * b.n;
    const Real* u = b.u + i * b.r;
    const Real* v = b.v + (b.first + i) % b.r * b.n;
    if (p > kLongestPeriod) {
      for (std::size_t j = 0; j < b.n; j += b.r) {
        const std::size_t count = std::min(b.r, b.n - j);
        for (std::size_t k = 0; k < count; ++k) row[j + k] += u[k] + v[j + k];
      }
      continue;
    }
    Real left[kLongestPeriod];
    for (std::size_t k = 0; k < p; ++k) left[k] = u[k % b.r];
    std::size_t j = 0;
    for (; j + p <= b.n; j += p) {
      for (std::size_t k = 0; k < p; ++k) row[j + k] += left[k] + v[j + k];
    }
    for (std::size_t k = 0; j + k < b.n; ++k) row[j + k] += left[k] + v[j + k];
  }
}

}  // namespace gradview::GRADVIEW_ISA
