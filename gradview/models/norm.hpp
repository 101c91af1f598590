// Layer norm and root-mean-square norm of every row, forward and backward.     x: N x d, γ, β: 1 x d
//
//     layer   x̂ = (x − mean x) ρ,  ρ = 1/√(var x + ε),    y = γ x̂ + β
//     rms     x̂ = x ρ,             ρ = 1/√(mean x² + ε),  y = γ x̂
//
// Ba, Kiros, Hinton: Layer normalization (2016, arXiv:1607.06450). Zhang, Sennrich: Root mean square
// layer normalization (2019, arXiv:1910.07467). What is kept is x̂: x and y are not needed again, and
// y can be had back.
#pragma once

#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

enum class NormKind { layer, rms };

struct Norm {
  NormKind kind = NormKind::layer;
  double eps = 1e-5;
  const Matrix* scale = nullptr;  // γ
  const Matrix* shift = nullptr;  // β; null under rms

  struct Kept {
    Matrix x;               // x̂
    std::vector<Real> rho;  // of each row
  };
  Matrix forward(const Matrix& x, Kept* kept) const;  // y; kept may be null
  Matrix forward(Matrix&& x, Kept* kept) const;       // x̂ takes the place of x
  Matrix output(const Kept& kept) const;              // y again
  // ∂L/∂x from δ = ∂L/∂y.
  Matrix input_gradient(const Kept& kept, Matrix delta) const;
  // ∂L/∂γ = Σ_t δ_t x̂_t (1 x d); ∂L/∂β = Σ_t δ_t is linear_bias_gradient.
  static Matrix scale_gradient(const Kept& kept, const Matrix& delta);

 private:
  void check(const Matrix& x) const;
  void normalize(const Real* x, Real* to, Real& rho, std::size_t d) const;
  void affine(const Real* x, Real* y, std::size_t d) const;
};

}  // namespace gradview
