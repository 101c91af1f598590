// fira: GaLore, and what it leaves out of G at the rate that the update rule gives the rest.
//
//     R = G vᵀ,  N = rule(R)
//     φ_i = ‖N_i‖ / (‖R_i‖ + 10⁻⁸)                       per row of R (per column on the left side)
//     S = diag(φ) (G − R v),  S ← S / max(1, ‖S‖ / (1.01 ‖S before‖))
//     W ← W − η (α N v + S)
//
// Chen et al.: Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?, 2024,
// arXiv:2410.01623. Differences: α (scale) is 1, where the authors have 0.25: at 1 it is the paper's
// equation, and anything else weighs the two parts differently. In the authors' code (fira 1.0.2)
// α is in the projection as well, so that S is of G − α R v: residual=scaled has that. There the
// limiter sees S before Adam's bias correction, which scales both parts afterwards; here after it,
// since the update rule is another object's. Its Adam and its decay are galore_torch's (galore.hpp).
// Under plain descent N = R, φ = 1, and the step is that of the full gradient.
#pragma once

#include "gradview/projections/growth_limiter.hpp"
#include "gradview/projections/leading_subspace.hpp"

namespace gradview {

class Fira final : public LeadingSubspace {
 public:
  enum class Residual { exact, scaled };
  struct Options : LeadingSubspace::Options {
    double scale = 1, growth = 1.01;
    Residual residual = Residual::exact;
    void declare(OptionSet& o) {
      declare_subspace(o, kOneSide);
      o.number("scale", scale, {.least = 0, .open_below = true}, "α, on what the subspace moves");
      o.choice("residual", residual, {{"exact", Residual::exact}, {"scaled", Residual::scaled}},
               "G − R v, or G − α R v as the authors' code has it");
      o.number("growth", growth, {.least = 1}, "longest S, in lengths of the one before");
    }
  };
  Fira(const Options& o, const Site& site) : LeadingSubspace(o, site), o_(o), limiter_(o.growth) {}
  static Count count(const Options& o, Shape shape) {
    Count count = OneSided::count(o.side, o.rank, shape);
    count.stored += GrowthLimiter::kStored;
    return count;
  }

  double rate(std::size_t) const override { return o_.scale; }
  bool needs_gradient() const override { return true; }
  void retract(const Step& step, Matrix* w) override {
    if (!w || step.lr == 0) return;
    lift(step.direction, *w);
    Matrix s = step.gradient.materialize();
    lift(times(step.projected, o_.residual == Residual::exact ? -1 : -o_.scale), s);
    multiply_by_ratios(step.direction[0], step.projected[0], step.lr * o_.scale, s);
    axpy(*w, -step.lr * limiter_.limit(std::sqrt(squared_norm(s))), s);
  }
  void fields(const Visit& visit) override {
    LeadingSubspace::fields(visit);
    limiter_.fields(visit);
  }
  std::string exempt(Law law) const override {
    return law == Law::operation ? "W moves by what the projection leaves out of G as well: "
                                   "T(G) is not J Jᵀ G"
                                 : "";
  }

 private:
  // s_ij *= ‖direction_i‖/length / (‖projected_i‖ + 10⁻⁸), i along the side that is kept.
  void multiply_by_ratios(const Matrix& direction, const Matrix& projected, double length,
                          Matrix& s) const {
    const Norms n = kept_norms(direction);
    const Norms r = kept_norms(projected);
    const auto [rows, cols] = shape_of(s);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < cols; ++j) {
        const std::size_t k = has_left() ? j : i;
        s(i, j) *= static_cast<Real>(n[k] / length / (r[k] + 1e-8));
      }
    }
  }
  using Norms = std::vector<double>;
  Norms kept_norms(const Matrix& a) const {  // m of them from m x r, n from r x n
    const auto [rows, cols] = shape_of(a);
    Norms norms(has_left() ? cols : rows);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < cols; ++j) {
        norms[has_left() ? j : i] += static_cast<double>(a(i, j)) * a(i, j);
      }
    }
    for (double& norm : norms) norm = std::sqrt(norm);
    return norms;
  }

  Options o_;
  GrowthLimiter limiter_;
};

}  // namespace gradview
