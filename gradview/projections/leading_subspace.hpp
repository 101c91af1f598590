// The subspace that GaLore and Fira project on: that of G's leading singular vectors, every κ steps.
//
//     v = the first r right singular vectors of the G of a step t with t mod κ = 0
//
// (or u of the left ones, or both). projection=svd takes them exactly from G, which it forms;
// subspace iterates with products alone, from the last frames and `oversampling` random rows; with
// warm_start=false from random rows only, which finds less in as many iterations. A gradient that is not finite leaves the frames as they are.
#pragma once

#include "gradview/projections/one_sided.hpp"
#include "gradview/projections/range_finder.hpp"

namespace gradview {

class LeadingSubspace : public OneSided {
 public:
  enum class Projection { svd, subspace };
  struct Options {
    std::size_t rank = 8, every = 200;
    Side side = Side::automatic;
    Projection projection = Projection::svd;
    std::size_t oversampling = 8, iterations = 2;
    bool warm_start = true;
    void declare_subspace(OptionSet& o, bool both = true) {
      o.count("rank", rank, {.least = 1}, "singular vectors that are kept; capped at min(m, n)");
      o.count("refresh_every", every, {.least = 1}, "steps between two choices of the frames");
      declare_side(o, side, both);
      o.choice("projection", projection,
               {{"svd", Projection::svd}, {"subspace", Projection::subspace}},
               "exactly, or by randomised subspace iteration, which never forms G");
      o.count("oversampling", oversampling, {}, "of subspace: rows beyond the rank");
      o.count("iterations", iterations, {}, "of subspace: products with G Gᵀ");
      o.flag("warm_start", warm_start, "of subspace: iterate from the frames of the last choice");
    }
  };

  Changes refresh(const Gradient& g, const Site& site) override {
    if (site.step % o_.every != 0 || !g.finite()) return {};
    Frames found = choose(compensated(g), site);
    return move_frames(std::move(found.u), std::move(found.v));
  }
  bool chooses_from_gradient(std::size_t step) const override { return step % o_.every == 0; }
  std::size_t refresh_every() const override { return o_.every; }
  bool moments_on_weight() const override { return false; }
  Transport transport() const override { return Transport::keep; }

 protected:
  LeadingSubspace(const Options& o, const Site& site, bool error_feedback = false)
      : OneSided(o.side, o.rank, site.shape(), error_feedback), o_(o) {}

 private:
  Frames choose(const Gradient& g, const Site& site) const {
    if (o_.projection == Projection::svd) return leading_frames(g, rank_);
    return leading_frames(g, rank_, o_.iterations,
                          first_rows(g.shape(), site.rng(Purpose::left_frame, site.step)));
  }
  // Rows of the smaller side's space, so that the transposed gradient gives the transposed frames.
  Frames first_rows(Shape shape, Stream rng) const {
    const auto [m, n] = shape;
    const std::size_t width = std::min({rank_ + o_.oversampling, m, n});
    const bool warm = o_.warm_start && has_frames();
    const auto from = [&](std::size_t d, const Matrix& frame) {  // l x d
      return frame.size() == 0 ? normal({width, d}, 1, rng)
                               : stacked(frame, normal({width - rank_, d}, 1, rng));
    };
    if (warm)
      return has_right() ? Frames{{}, from(n, v_)} : Frames{transpose(from(m, transpose(u_))), {}};
    return m >= n ? Frames{{}, from(n, {})} : Frames{transpose(from(m, {})), {}};
  }

  Options o_;
};

}  // namespace gradview
