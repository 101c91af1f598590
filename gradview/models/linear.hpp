// A linear layer over N tokens: y = x Wᵀ + b.     x: N x n, W: m x n, b: 1 x m, y: N x m
// Its weight gradient is never formed: the layer hands on δ = ∂L/∂y and x (Gradient::outer).
#pragma once

#include "gradview/core/bf16.hpp"
#include "gradview/core/thin.hpp"

namespace gradview {

inline Matrix linear_forward(const Matrix& x, const Matrix& w, const Matrix& b,
                             Compute in = Compute::real) {
  Matrix y = matmul_nt(x, w, in);
  const auto [tokens, m] = shape_of(y);
  require_shape("linear_forward", "b", shape_of(b), {1, m});
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < m; ++i) y.data()[t * m + i] += b.data()[i];
  }
  return y;
}

inline Matrix linear_input_gradient(const Matrix& delta, const Matrix& w,
                                    Compute in = Compute::real) {  // ∂L/∂x = δ W
  return matmul(delta, w, in);
}

inline Matrix linear_bias_gradient(const Matrix& delta) { return fold_rows(delta, 1); }  // 1ᵀ δ

}  // namespace gradview
