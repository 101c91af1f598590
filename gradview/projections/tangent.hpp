// The tangent map that LoRA, random frames and the additive splits share, for frames u (m x r) and
// v (r x n):
//
//     J (du, dv) = s (du v + u dv)          Jᵀ G = s (G vᵀ, uᵀ G)
//
// LoRA moves the frames, random redraws them, LoRA-FA freezes one, additive freezes both at (block)
// ones.
#pragma once

#include "gradview/projections/projector.hpp"

namespace gradview {

inline Factors pull_back(double s, const Matrix& u, const Matrix& v, const Gradient& g) {
  Sides both = sides(g, u, v);
  Factors out{std::move(both.right), std::move(both.left)};
  for (Matrix& factor : out) scale(factor, s);
  return out;
}

// w += s (du v + u dv)
inline void push_forward(double s, const Matrix& u, const Matrix& v, const Matrix& du,
                         const Matrix& dv, Matrix& w) {
  add_products(w, s, {{du, v}, {u, dv}});
}

// (u v)_ij
inline double product_entry(const Matrix& u, const Matrix& v, std::size_t i, std::size_t j) {
  double sum = 0;
  for (std::size_t k = 0; k < v.shape()[0]; ++k) sum += static_cast<double>(u(i, k)) * v(k, j);
  return sum;
}

}  // namespace gradview
