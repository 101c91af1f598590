// The leading singular subspaces of a gradient: exactly, or by randomised subspace iteration, which
// touches G through thin products alone, so that a factored G is never formed.
//
//     U ← orth(G vᵀ),  then q times  v ← orth(Uᵀ G),  U ← orth(G vᵀ);  Uᵀ G = A Σ Bᵀ
//     u = the first r columns of U A,  v = the first r rows of Bᵀ          start: v, l x n
//
// (and with the sides exchanged, from u). Halko, Martinsson, Tropp: Finding structure with
// randomness, 2011, arXiv:0909.4061, algorithms 4.4 and 5.1. Signs are fixed: the entry of largest
// magnitude in every column of u, and in every row of v, is positive.
#pragma once

#include <cmath>
#include <utility>

#include "gradview/core/gradient.hpp"
#include "gradview/core/linalg.hpp"

namespace gradview {

struct Frames {
  Matrix u;  // m x r, orthonormal columns
  Matrix v;  // r x n, orthonormal rows
};

inline Matrix with_fixed_signs(Matrix v) {  // per row
  const auto [r, n] = shape_of(v);
  for (std::size_t k = 0; k < r; ++k) {
    Real largest = 0;
    for (std::size_t j = 0; j < n; ++j) {
      if (std::abs(v(k, j)) > std::abs(largest)) largest = v(k, j);
    }
    for (std::size_t j = 0; j < n && largest < 0; ++j) v(k, j) = -v(k, j);
  }
  return v;
}

inline Frames first_frames(const Matrix& u, const Matrix& v, std::size_t rank) {
  return {transpose(with_fixed_signs(transpose(columns(u, 0, rank)))),
          with_fixed_signs(rows(v, 0, rank))};
}

// Throws std::domain_error where G is not finite.
inline Frames leading_frames(const Gradient& g, std::size_t rank) {
  const Svd s = svd(g.materialize());
  return first_frames(s.u, s.vt, rank);
}

// start.v is l x n, or else start.u is m x l, with rank <= l <= min(m, n), of full rank.
inline Frames leading_frames(const Gradient& g, std::size_t rank, std::size_t iterations,
                             Frames start) {
  const auto to_left = [&](const Matrix& v) {
    return transpose(orthonormal_rows(transpose(matmul_nt(g, v))));
  };
  const auto to_right = [&](const Matrix& u) { return orthonormal_rows(matmul_tn(u, g)); };
  if (start.v.size() > 0) {
    Matrix u = to_left(start.v);
    for (std::size_t k = 0; k < iterations; ++k) u = to_left(to_right(u));
    const Svd s = svd(matmul_tn(u, g));  // l x n
    return first_frames(matmul(u, s.u), s.vt, rank);
  }
  Matrix v = to_right(start.u);
  for (std::size_t k = 0; k < iterations; ++k) v = to_right(to_left(v));
  const Svd s = svd(matmul_nt(g, v));  // m x l
  return first_frames(s.u, matmul(s.vt, v), rank);
}

}  // namespace gradview
