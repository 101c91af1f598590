// lora_pro: the factors' gradients whose product is nearest to the gradient of the weight.
//
//     dV' = s⁻² (uᵀu)⁻¹ dV + X v                  dU' = s⁻² (I − Π_u) dU (v vᵀ)⁻¹ − u X
//     s(u dV' + dU' v) = Π_u G + G Π_v − Π_u G Π_v       the orthogonal projection on the tangent space
//     uᵀu X + X v vᵀ = −s⁻² (uᵀu)⁻¹ dV vᵀ                of all X, the nearest to (dU, dV)
//
// Wang, Liang, He, Wang, Tan: LoRA-Pro: Are Low-Rank Adapters Properly Optimized?, 2024,
// arXiv:2407.18242. δ (delta) is added in the inverses as in the authors' code, which treats step 0
// apart (u = 0, dV' = dV = 0): here that follows from u = 0. The code keeps Adam's moments of the
// projected gradient, full m x n, and pulls Adam's direction back: moments=lifted of the optimizer;
// moments=factors is its efficient mode. Not copied: it hard-codes s = 16/8 (wrong for the rslora
// run that its README recommends, s = 16/√8), β₁ = 0.9, β₂ = 0.999 and ε = 1e-8, rounds the squares
// that it adds to the second moment to bfloat16, and clips these gradients by the norm of the plain
// ones.
//
// Where ‖u‖ is about lr, which is so after the first step from u = 0, dV' ~ 1/‖u‖ moves v by as much
// as v is, and the second-order term of the step is as large as the first. damping = λ adds
// λ‖v‖²/r to uᵀu, and λ‖u‖²/r to v vᵀ, in the inverses; the step is then no longer the projection.
#pragma once

#include "gradview/projections/lora_precondition.hpp"

namespace gradview {

class LoraPro final : public LoraPreconditioner {
 public:
  const char* name() const override { return "lora_pro"; }
  void declare(OptionSet& o) override {
    o.number("delta", delta_, {.least = 0}, "δ, added to the diagonals before they are inverted");
    o.number("damping", damping_, {.least = 0},
             "λ: one diagonal gets λ times the other's mean, against ‖u‖ near lr");
  }
  void apply(Factors& g, const Matrix& u, const Matrix& v, double s) const override {
    const Matrix uu = matmul_tn(u, u), vv = matmul_nt(v, v);
    const auto r = static_cast<double>(shape_of(uu).rows);
    const Matrix u_inverse = damped_inverse(uu, delta_ + damping_ * squared_norm(v) / r);
    const Matrix v_inverse = damped_inverse(vv, delta_ + damping_ * squared_norm(u) / r);
    Matrix dv = matmul(u_inverse, g[1]);
    scale(dv, 1 / (s * s));
    Matrix du = g[0];
    add_matmul(du, -1, u, matmul(u_inverse, matmul_tn(u, g[0])));  // (I − Π_u) dU
    du = matmul(du, v_inverse);
    scale(du, 1 / (s * s));
    const Matrix x = sylvester(uu, vv, matmul_nt(dv, v));
    add_matmul(dv, 1, x, v);
    add_matmul(du, -1, u, x);
    g = {std::move(du), std::move(dv)};
  }

 private:
  // X with a X + X b = −c, for symmetric a, b >= 0.
  static Matrix sylvester(const Matrix& a, const Matrix& b, const Matrix& c) {
    const SymmetricEigen left = symmetric_eigen(a), right = symmetric_eigen(b);
    Matrix x = matmul(matmul_tn(left.q, c), right.q);
    for (std::size_t i = 0; i < left.values.size(); ++i) {
      for (std::size_t j = 0; j < right.values.size(); ++j) {
        const double sum = left.values[i] + right.values[j];
        x(i, j) = sum > 0 ? static_cast<Real>(-x(i, j) / sum) : Real{0};
      }
    }
    return matmul_nt(matmul(left.q, x), right.q);
  }

  double delta_ = 1e-8, damping_ = 0;
};

}  // namespace gradview
