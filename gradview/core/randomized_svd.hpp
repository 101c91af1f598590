// Randomised SVD: the leading singular triples of a matrix that is touched through products only.
//
//     Q = orth(A Ω),  niter times Q = orth(A orth(Aᵀ Q));      Qᵀ A = U S Vᵀ,  A ≈ (Q U) S Vᵀ
//
// Halko, Martinsson, Tropp: Finding structure with randomness, 2009, arXiv:0909.4061, algorithm
// 4.4, on A or Aᵀ so that the smaller side is drawn (as torch.svd_lowrank). A is whatever has
// matmul_nt(A, v) and matmul_tn(u, A): a Gradient stays factored.
#pragma once

#include "gradview/core/linalg.hpp"

namespace gradview {

// `draw`: q x min(m, n) independent normal numbers, q <= min(m, n). Gives q triples.
template <class A>
Svd randomized_svd(const A& a, Shape shape, const Matrix& draw, std::size_t niter) {
  const bool tall = shape.rows >= shape.cols;
  const auto along = [&](const Matrix& x) {  // q x short → q x long
    return tall ? transpose(matmul_nt(a, x)) : matmul_tn(transpose(x), a);
  };
  const auto back = [&](const Matrix& x) {  // q x long → q x short
    return tall ? matmul_tn(transpose(x), a) : transpose(matmul_nt(a, x));
  };
  Matrix q = orthonormal_rows(along(draw));  // rows: Qᵀ
  for (std::size_t k = 0; k < niter; ++k) q = orthonormal_rows(along(orthonormal_rows(back(q))));
  Svd s = svd(back(q));
  if (tall) {
    s.u = matmul_tn(q, s.u);
  } else {
    Matrix u = transpose(s.vt);
    s.vt = matmul_tn(s.u, q);
    s.u = std::move(u);
  }
  fix_signs(s);
  return s;
}

}  // namespace gradview
