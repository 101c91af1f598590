// ldadam: a subspace that follows the gradient by one block power iteration per step.
//
//     b = ρ m̂ v + (1 − ρ) A,   v ← orth((b vᵀ)ᵀ b)         A = G + e, m̂: the first moment, m x r
//     W ← W − η rule(A vᵀ) v
//     e ← A − A vᵀ v + β₁/(1 − β₁) (m v_old − m C v)       C = v_old vᵀ
//
// (mirrored on the left side). Robert, Safaryan, Modoranu, Alistarh: LDAdam: Adaptive Optimization
// from Low-Dimensional Gradient Statistics, 2024, arXiv:2410.16103. The moments follow the frames by
// transport=rotate, which auto means here; with keep or reset the second part of e is not what they
// lost. b is never formed. β₁, β₂ and ε are the optimizer's; the authors have 0.908, 0.99 and 10⁻⁸.
// The first frames are leading singular vectors of the first gradient. Differences: a square matrix
// is projected from the right; e is a field, where the authors keep it in the gradient's own array,
// so that clipping and accumulation do not touch it; a rule without a first moment, and
// moments=weight, follow A alone.
#pragma once

#include "gradview/projections/one_sided.hpp"
#include "gradview/projections/range_finder.hpp"

namespace gradview {

class Ldadam final : public OneSided {
 public:
  struct Options {
    std::size_t rank = 8;
    double rho = 0.908;
    Side side = Side::automatic;
    bool error_feedback = true;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "rows of the frame; capped at min(m, n)");
      o.number("rho", rho, {.least = 0, .most = 1, .open_above = true},
               "share of the first moment in what the subspace follows");
      declare_side(o, side, kOneSide);
      declare_error_feedback(o, error_feedback);
    }
  };
  Ldadam(const Options& o, const Site& site)
      : OneSided(o.side, o.rank, site.shape(), o.error_feedback), rho_(o.rho) {}
  static Count count(const Options& o, Shape shape) {
    return OneSided::count(o.side, o.rank, shape, o.error_feedback);
  }

  Changes refresh(const Gradient& g, const Site& site) override {
    if (!g.finite()) return {};
    const Gradient a = compensated(g);
    if (!has_frames()) {
      Frames found = leading_frames(a, rank_);
      return move_frames(std::move(found.u), std::move(found.v));
    }
    const bool has_mean = !site.moments.empty() && site.moments[0].first.size() > 0;
    const Matrix mean = has_mean ? site.moments[0].first : Matrix();
    Matrix sketch = follow(a, mean, has_mean ? rho_ / site.moments[0].first_weight() : 0);
    if (!(squared_norm(sketch) > 0)) return {};
    if (!feeds_back() || !has_mean) return take(std::move(sketch));
    const double share = site.moments[0].beta1 / site.moments[0].newest;
    lift({times(mean, share)}, error_);
    Changes changes = take(std::move(sketch));
    const Change& c = *changes[0];
    lift({times(has_right() ? matmul(mean, c.right) : matmul(c.left, mean), -share)}, error_);
    return changes;
  }
  bool chooses_from_gradient(std::size_t) const override { return true; }
  std::size_t refresh_every() const override { return 1; }
  bool moments_on_weight() const override { return false; }
  Transport transport() const override { return Transport::rotate; }

 private:
  // (b vᵀ)ᵀ b, or b (uᵀ b)ᵀ, with b = share · mean v + (1 − ρ) A, or share · u mean + (1 − ρ) A.
  Matrix follow(const Gradient& a, const Matrix& mean, double share) const {
    Matrix x = times(pulled(a), 1 - rho_);
    if (share > 0) axpy(x, share, mean);
    Matrix y = times(has_right() ? matmul_tn(x, a) : matmul_nt(a, x), 1 - rho_);
    if (share > 0 && has_right()) add_matmul(y, share, matmul_tn(x, mean), v_);
    if (share > 0 && !has_right()) add_matmul(y, share, u_, matmul_nt(mean, x));
    return y;
  }
  Changes take(Matrix sketch) {
    if (has_right()) return move_frames({}, orthonormal_rows(sketch));
    return move_frames(transpose(orthonormal_rows(transpose(sketch))), {});
  }

  double rho_;
};

}  // namespace gradview
