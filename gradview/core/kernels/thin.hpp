// Thin products of a block of rows, both from one read:   P = A Vᵀ,  H += Qᵀ A
//     A: rows x n, V: r x n, Q: rows x r, P: rows x r, H: r x n; either product alone as well
//
//     for i in tiles of M rows                      read once from memory
//       for k in groups of K ranks                  then from the cache
//         for j in vectors of W columns             A_ij: M registers; V_kj, H_kj: one each
//           P_ik += A_ij V_kj                       M K registers: the sums
//           H_kj += Q_ik A_ij                       Q from memory
//
// V and H are packed [group][vector][rank][lane], so that a tile walks through them in order: rows
// of 2^k columns would fall into the same cache sets. Where registers are 32 a tile is 6 x 4 (24
// sums, 6 of A, one of V, one of H), with one or two ranks 8 rows; where they are 16 it is 4 x 2. One
// group does both products in one loop; of more, P comes first and H then, with Q in the registers of
// the sums: two loops that multiply without waiting for loads.
#pragma once

#include <algorithm>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/vector.hpp"

namespace gradview::GRADVIEW_ISA {

constexpr std::size_t kThinRanks = kRegisters == 32 ? 4 : 2;

constexpr std::size_t vectors(std::size_t n) { return (n + kWidth - 1) / kWidth; }
inline std::size_t thin_size(std::size_t r, std::size_t n) { return r * vectors(n) * kWidth; }

// Calls visit(packed lanes, k, j) for every vector of a packed r x n matrix: entries (k, j) … of it.
template <class Data, class Visit>
GRADVIEW_INLINE void each_vector(Data* packed, std::size_t r, std::size_t n, const Visit& visit) {
  for (std::size_t first = 0; first < r; first += kThinRanks) {
    const std::size_t ranks = std::min(kThinRanks, r - first);
    for (std::size_t j = 0; j < n; j += kWidth) {
      for (std::size_t k = first; k < first + ranks; ++k, packed += kWidth) visit(packed, k, j);
    }
  }
}

inline void thin_pack(Strided from, std::size_t r, std::size_t n, Real* to) {
  each_vector(to, r, n, [&](Real* lanes, std::size_t k, std::size_t j) {
    const Real* in = from.data + k * from.row + j * from.column;
    const std::size_t count = std::min(kWidth, n - j);
    if (from.column == 1 && count == kWidth) {
      load(in).store_unaligned(lanes);
    } else {
      for (std::size_t l = 0; l < kWidth; ++l) lanes[l] = l < count ? in[l * from.column] : Real{0};
    }
  });
}

inline void thin_add(const Real* packed, std::size_t r, std::size_t n, Real s, Real* to,
                     std::size_t row, std::size_t column) {
  each_vector(packed, r, n, [&](const Real* lanes, std::size_t k, std::size_t j) {
    Real* out = to + k * row + j * column;
    const std::size_t count = std::min(kWidth, n - j);
    if (column == 1 && count == kWidth) {
      xsimd::fma(Vector(s), load(lanes), load(out)).store_unaligned(out);
    } else {
      for (std::size_t l = 0; l < count; ++l) out[l * column] += s * lanes[l];
    }
  });
}

// One tile: a at its first row, v and h at the group, p and q at the tile's row and the group.
template <std::size_t M, std::size_t K, bool Right, bool Left>
void thin_tile(const ThinBlock& b, const Real* a, const Real* v, Real* p, const Real* q, Real* h) {
  // M K registers: of the sums, or of Q where there are none; else Q comes from memory.
  Vector sums[M][K];
  unroll<M>([&](auto i) {
    unroll<K>([&](auto k) { sums[i][k] = Right ? Vector(Real{0}) : Vector(q[i * b.r + k]); });
  });
  const auto step = [&](const Real* at, std::size_t lda) __attribute__((always_inline)) {
    Vector x[M];
    unroll<M>([&](auto i) { x[i] = load(at + i * lda); });
    unroll<K>([&](auto k) {
      if constexpr (Right) {
        const Vector y = load(v + k * kWidth);
        unroll<M>([&](auto i) { sums[i][k] = xsimd::fma(x[i], y, sums[i][k]); });
      }
      if constexpr (Left) {
        Vector to = load(h + k * kWidth);
        unroll<M>([&](auto i) {
          to = xsimd::fma(Right ? Vector(q[i * b.r + k]) : sums[i][k], x[i], to);
        });
        to.store_unaligned(h + k * kWidth);
      }
    });
    if constexpr (Right) v += K * kWidth;
    if constexpr (Left) h += K * kWidth;
  };
  std::size_t j = 0;
  for (; j + kWidth <= b.n; j += kWidth) step(a + j, b.lda);
  if (j < b.n) {
    Real tail[M * kWidth] = {};
    for (std::size_t i = 0; i < M; ++i) {
      for (std::size_t l = 0; j + l < b.n; ++l) tail[i * kWidth + l] = a[i * b.lda + j + l];
    }
    step(tail, kWidth);
  }
  if constexpr (Right) {
    Real total[M][K];
    sums_of<M * K>(sums[0], total[0]);
    for (std::size_t i = 0; i < M; ++i) {
      for (std::size_t k = 0; k < K; ++k) p[i * b.r + k] = total[i][k];
    }
  }
}

template <std::size_t M, bool Right, bool Left>
void thin_groups(const ThinBlock& b, std::size_t i) {
  if constexpr (Right && Left) {
    if (b.r > kThinRanks) {
      thin_groups<M, true, false>(b, i);
      return thin_groups<M, false, true>(b, i);
    }
  }
  const Real* a = b.a + i * b.lda;
  for (std::size_t k = 0; k < b.r; k += kThinRanks) {
    const std::size_t group = k * vectors(b.n) * kWidth;
    const Real* v = Right ? b.v + group : nullptr;
    Real* p = Right ? b.p + i * b.r + k : nullptr;
    const Real* q = Left ? b.q + i * b.r + k : nullptr;
    Real* h = Left ? b.h + group : nullptr;
    const std::size_t ranks = std::min(kThinRanks, b.r - k);
    if (ranks == 1) {
      thin_tile<M, 1, Right, Left>(b, a, v, p, q, h);
    } else if (ranks == 2) {
      thin_tile<M, 2, Right, Left>(b, a, v, p, q, h);
    } else if constexpr (M < 8 && kThinRanks > 2) {
      ranks == 3 ? thin_tile<M, 3, Right, Left>(b, a, v, p, q, h)
                 : thin_tile<M, 4, Right, Left>(b, a, v, p, q, h);
    }
  }
}

template <std::size_t M, bool Right, bool Left>
void thin_rows(const ThinBlock& b, std::size_t i = 0) {
  for (; i + M <= b.rows; i += M) thin_groups<M, Right, Left>(b, i);
  if constexpr (M > 1) thin_rows<M / 2, Right, Left>(b, i);
}

template <bool Right, bool Left>
void thin_tiled(const ThinBlock& b) {
  if (b.r == 1 || (b.r == 2 && kRegisters == 32)) return thin_rows<8, Right, Left>(b);  // K <= 2
  thin_rows<kRegisters == 32 ? 6 : 4, Right, Left>(b);
}

inline void thin(const ThinBlock& b) {
  if (b.v && b.q) return thin_tiled<true, true>(b);
  if (b.v) return thin_tiled<true, false>(b);
  thin_tiled<false, true>(b);
}

}  // namespace gradview::GRADVIEW_ISA
