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
// α is in the projection as well, so that S is of G − α R v: residual=scaled has that. Its Adam and
// its decay are galore_torch's (galore.hpp); with adam:bias_correction=rate the limiter sees S as
// there, before the bias correction, else after it. Under plain descent N = R, φ = 1, and the step
// is that of the full gradient.
#pragma once

#include "gradview/projections/channel_scaling.hpp"
#include "gradview/projections/growth_limiter.hpp"
#include "gradview/projections/leading_subspace.hpp"

namespace gradview {

class Fira final : public LeadingSubspace {
 public:
  enum class Residual { exact, scaled };
  struct Options : LeadingSubspace::Options {
    double scale = 1, growth_limit = 1.01;
    Residual residual = Residual::exact;
    void declare(OptionSet& o) {
      declare_subspace(o, kOneSide);
      o.number("scale", scale, {.least = 0, .open_below = true}, "α, on what the subspace moves");
      o.choice("residual", residual, {{"exact", Residual::exact}, {"scaled", Residual::scaled}},
               "G − R v, or G − α R v as the authors' code has it");
      o.number("growth_limit", growth_limit, {.least = 0},
               "S is at most that many times as long as the one before; 0: any");
    }
  };
  Fira(const Options& o, const Site& site)
      : LeadingSubspace(o, site), o_(o), limiter_(o.growth_limit) {}
  static Count count(const Options& o, Shape shape) {
    Count count = OneSided::count(o.side, o.rank, shape);
    if (o.growth_limit > 0) count.stored += GrowthLimiter::kStored;
    return count;
  }

  double rate(std::size_t) const override { return o_.scale; }
  bool needs_gradient() const override { return true; }
  void retract(const Step& step, Matrix* w) override {
    if (!w) return;
    lift(step.direction, *w);
    if (step.ruled.empty()) return;
    Matrix s = step.gradient.materialize();
    lift(times(step.projected, o_.residual == Residual::exact ? -1 : -o_.scale), s);
    scale_channels(s, step.ruled[0], step.projected[0],
                   has_left() ? Channels::columns : Channels::rows);
    const bool limited = o_.growth_limit > 0;
    axpy(*w, -step.lr * (limited ? limiter_.limit(std::sqrt(squared_norm(s))) : 1), s);
  }
  void fields(const Visit& visit) override {
    LeadingSubspace::fields(visit);
    if (o_.growth_limit > 0) limiter_.fields(visit);
  }
  std::string exempt(Law law) const override {
    return law == Law::operation ? "W moves by what the projection leaves out of G as well: "
                                   "T(G) is not J Jᵀ G"
                                 : "";
  }

 private:
  Options o_;
  GrowthLimiter limiter_;
};

}  // namespace gradview
