// A thin product added to a block of rows in one pass:   W += L R     W: rows x n, L: rows x k, R: k x n
//
//     for i in tiles of M rows
//       for j in panels of C vectors                W_ij: M C registers, loaded and stored once
//         for l < k
//           W_ij += L_il R_lj                       M C multiply-adds for M + C loads
//
// R is packed [panel][l][lane], so that a tile walks through it in order. A tile is two vectors wide
// and as many rows high as there are registers, 12 of 32 or 6 of 16: with four vectors and 6 rows as
// many multiply-adds, but longer visits to fewer rows, which memory serves worse. The pass over W bounds k = 1 and 2, the multiply-adds k >= 8.
#pragma once

#include <algorithm>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/vector.hpp"

namespace gradview::GRADVIEW_ISA {

constexpr std::size_t kPanelVectors = 2;
constexpr std::size_t kPanel = kPanelVectors * kWidth;  // columns

inline std::size_t update_size(std::size_t k, std::size_t n) {
  return k * ((n + kPanel - 1) / kPanel) * kPanel;
}

inline void update_pack(Strided from, std::size_t k, std::size_t n, std::size_t first,
                        std::size_t total, Real* to) {
  for (std::size_t j = 0; j < n; j += kPanel) {
    for (std::size_t l = 0; l < k; ++l) {
      Real* row = to + j * total + (first + l) * kPanel;
      const Real* in = from.data + l * from.row + j * from.column;
      const std::size_t count = std::min(kPanel, n - j);
      for (std::size_t c = 0; c < count; ++c) row[c] = in[c * from.column];
      std::fill(row + count, row + kPanel, Real{0});
    }
  }
}

// M x kPanel entries of W, ldw apart, at w.
template <std::size_t M>
void update_tile(Real* w, std::size_t ldw, std::size_t k, const Real* left, const Real* right) {
  constexpr std::size_t C = kPanelVectors;
  Vector sums[M][C];
  unroll<M>(
      [&](auto i) { unroll<C>([&](auto c) { sums[i][c] = load(w + i * ldw + c * kWidth); }); });
  for (std::size_t l = 0; l < k; ++l, right += kPanel) {
    Vector x[C];
    unroll<C>([&](auto c) { x[c] = load(right + c * kWidth); });
    unroll<M>([&](auto i) {
      const Vector y(left[i * k + l]);
      unroll<C>([&](auto c) { sums[i][c] = xsimd::fma(y, x[c], sums[i][c]); });
    });
  }
  unroll<M>([&](auto i) {
    unroll<C>([&](auto c) { sums[i][c].store_unaligned(w + i * ldw + c * kWidth); });
  });
}

template <std::size_t M>
void update_rows(const UpdateBlock& b, std::size_t i) {
  for (; i + M <= b.rows; i += M) {
    Real* w = b.w + i * b.n;
    const Real* left = b.left + i * b.k;
    std::size_t j = 0;
    for (; j + kPanel <= b.n; j += kPanel) {
      update_tile<M>(w + j, b.n, b.k, left, b.right + j * b.k);
    }
    if (j == b.n) continue;
    Real tail[M * kPanel] = {};
    for (std::size_t row = 0; row < M; ++row) {
      std::copy_n(w + row * b.n + j, b.n - j, tail + row * kPanel);
    }
    update_tile<M>(tail, kPanel, b.k, left, b.right + j * b.k);
    for (std::size_t row = 0; row < M; ++row) {
      std::copy_n(tail + row * kPanel, b.n - j, w + row * b.n + j);
    }
  }
  if constexpr (M > 1) update_rows<M / 2>(b, i);
}

inline void update(const UpdateBlock& b) { update_rows<kRegisters == 32 ? 12 : 6>(b, 0); }

}  // namespace gradview::GRADVIEW_ISA
