// galore: the gradient projected onto its own leading singular vectors, chosen anew every κ steps.
//
//     Jᵀ G = G vᵀ,  W ← W − η α rule(G vᵀ) v          v: the top r right singular vectors of a G
//
// (uᵀ G on the other side, uᵀ G vᵀ on both). Zhao et al.: GaLore: Memory-Efficient LLM Training by
// Gradient Low-Rank Projection, 2024, arXiv:2403.03507. The frames come from the gradient of the
// step at which they are chosen. α (scale) acts on the way back only: as a learning-rate ratio.
// Moments stay as they are when the frames move (the authors' code), unless transport says else.
#pragma once

#include "gradview/projections/one_sided.hpp"

namespace gradview {

class Galore final : public OneSided {
 public:
  struct Options {
    std::size_t rank = 8, every = 200;
    double scale = 1;
    Side side = Side::automatic;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "singular vectors that are kept; capped at min(m, n)");
      o.count("refresh_every", every, {.least = 1}, "steps between two choices of the frames");
      o.number("scale", scale, {.least = 0, .open_below = true}, "α, on the way back");
      declare_side(o, side);
    }
  };
  Galore(const Options& o, const Site& site) : OneSided(o.side, o.rank, site.shape()), o_(o) {}
  static Count count(const Options& o, Shape shape) {
    return OneSided::count(o.side, o.rank, shape);
  }

  Changes refresh(const Gradient& g, const Site& site) override {
    if (site.step % o_.every != 0 || !g.finite()) return {};
    const Svd s = svd(g.materialize());
    Matrix u, v;
    if (has_left()) u = columns(s.u, 0, rank_);
    if (has_right()) v = rows(s.vt, 0, rank_);
    return move_frames(std::move(u), std::move(v));
  }
  double rate(std::size_t) const override { return o_.scale; }
  std::size_t refresh_every() const override { return o_.every; }
  bool moments_on_weight() const override { return false; }
  Transport transport() const override { return Transport::keep; }

 private:
  Options o_;
};

}  // namespace gradview
