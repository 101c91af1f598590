// LoraPreconditioner: what lora makes of the factors' gradients (dU, dV) = s (G vᵀ, uᵀ G) before the
// update rule.
//
//     none          nothing                                       J Jᵀ G = s²(G vᵀv + u uᵀ G)
//     riemannian    dU (v vᵀ + reg I)⁻¹, (uᵀu + reg I)⁻¹ dV       s²(G Π_v + Π_u G) at reg = 0
//
// Tong, Ma, Chi: Accelerating Ill-Conditioned Low-Rank Matrix Estimation via Scaled Gradient
// Descent, 2020, arXiv:2005.08898. Zhang, Pilanci: Riemannian Preconditioned LoRA for Fine-Tuning
// Foundation Models, 2024, arXiv:2402.02347; reg = 0.01 as PEFT has it. At reg = 0 (then
// pseudo-inverses) a step of SGD is the same for (u M, M⁻¹ v).
#pragma once

#include <limits>
#include <utility>

#include "gradview/projections/projector.hpp"

namespace gradview {

class LoraPreconditioner {
 public:
  virtual ~LoraPreconditioner() = default;
  virtual const char* name() const = 0;
  virtual void declare(OptionSet&) {}
  virtual void apply(Factors& g, const Matrix& u, const Matrix& v, double s) const = 0;
};

// (a + damping I)⁻¹ of a symmetric a >= 0; its pseudo-inverse where that is singular.
inline Matrix damped_inverse(const Matrix& a, double damping) {
  const SymmetricEigen e = symmetric_eigen(a);
  const std::size_t r = e.values.size();
  const double least = static_cast<double>(r) * std::numeric_limits<Real>::epsilon() *
                       (std::abs(e.values.back()) + damping);
  Matrix scaled = e.q;
  for (std::size_t k = 0; k < r; ++k) {
    const double value = e.values[k] + damping;
    const double inverse = value > least ? 1 / value : 0;
    for (std::size_t i = 0; i < r; ++i) scaled(i, k) = static_cast<Real>(scaled(i, k) * inverse);
  }
  return matmul_nt(scaled, e.q);
}

class NoPreconditioner final : public LoraPreconditioner {
 public:
  const char* name() const override { return "none"; }
  void apply(Factors&, const Matrix&, const Matrix&, double) const override {}
};

class RiemannianPreconditioner final : public LoraPreconditioner {
 public:
  const char* name() const override { return "riemannian"; }
  void declare(OptionSet& o) override {
    o.number("reg", reg_, {.least = 0}, "added to the diagonals before they are inverted");
  }
  void apply(Factors& g, const Matrix& u, const Matrix& v, double) const override {
    g[0] = matmul(g[0], damped_inverse(matmul_nt(v, v), reg_));
    g[1] = matmul(damped_inverse(matmul_tn(u, u), reg_), g[1]);
  }

 private:
  double reg_ = 0.01;
};

}  // namespace gradview
