// A linear layer over N tokens: y = x Wᵀ + b.     x: N x n, W: m x n, b: 1 x m, y: N x m
// Its weight gradient is never formed: the layer hands on δ = ∂L/∂y and x (Gradient::outer).
#pragma once

#include <algorithm>

#include "gradview/core/bf16.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/thin.hpp"

namespace gradview {

// y += 1 b, or y = 1 b where `fresh`.
inline void add_bias(Matrix& y, const Matrix& b, bool fresh = false) {
  const auto [tokens, m] = shape_of(y);
  require_shape("add_bias", "b", shape_of(b), {1, m});
  const Real* from = b.data();
  Real* to = y.data();
  parallel_blocks(tokens, 64, [=, n = m](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      if (fresh) {
        std::copy_n(from, n, to + t * n);
      } else {
        for (std::size_t i = 0; i < n; ++i) to[t * n + i] += from[i];
      }
    }
  });
}

// Starts from the bias: BLAS adds as fast as it overwrites.
inline Matrix linear_forward(const Operand& x, const Operand& w, const Matrix& b) {
  Matrix y = uninitialized({x.real().shape()[0], w.real().shape()[0]});
  add_bias(y, b, true);
  add_matmul_nt(y, 1, x, w);
  return y;
}

inline Matrix linear_input_gradient(const Operand& delta, const Operand& w) {  // ∂L/∂x = δ W
  return matmul(delta, w);
}

inline Matrix linear_bias_gradient(const Matrix& delta) { return fold_rows(delta, 1); }  // 1ᵀ δ

}  // namespace gradview
