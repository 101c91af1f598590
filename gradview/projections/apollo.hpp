// apollo: steps along the gradient itself, scaled as an adaptive rule in a random sketch says.
//
//     R = G vᵀ,  N = rule(R),  s_j = ‖N_j‖/(‖R_j‖ + 10⁻⁸),   W ← W − η √scale · limited(s ∘ G)
//
// v: r x n with entries N(0, 1/r), drawn anew every κ steps, so that E‖R_j‖² = ‖G_j‖² for each row
// j; R = uᵀ G and columns j where m < n. scaling=tensor has one s = ‖N‖/(‖R‖ + 10⁻⁸): with rank 1
// APOLLO-Mini. Zhu et al.: APOLLO: SGD-like Memory, AdamW-level Performance, 2024,
// arXiv:2412.05270. limited is the norm-growth limiter; scale_front=true has √scale inside it. The
// authors' defaults are scale 1, and 128 for Mini.
//
// Momentum enters through lengths only. Moments stay as they are when v moves, as in the authors'
// code (only lengths matter); bias_correction=rate of adam is theirs, which the limiter does not
// see. The frame comes from the seed and is not state. With moments on the weight R and N are
// those of rule(G): s is one, and the step is the rule's own.
#pragma once

#include <cmath>

#include "gradview/projections/channel_scaling.hpp"
#include "gradview/projections/growth_limiter.hpp"
#include "gradview/projections/one_sided.hpp"

namespace gradview {

class Apollo final : public OneSided {
 public:
  enum class Scaling { automatic, channel, tensor };
  struct Options {
    std::size_t rank = 8, every = 200;
    double scale = 1, growth_limit = 1.01;
    bool scale_front = false;
    Scaling scaling = Scaling::automatic;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "rows of the frame; capped at min(m, n)");
      o.count("refresh_every", every, {.least = 1}, "steps between two draws of the frame");
      o.number("scale", scale, {.least = 0, .open_below = true}, "its root multiplies the step");
      o.choice("scaling", scaling,
               {{"auto", Scaling::automatic},
                {"channel", Scaling::channel},
                {"tensor", Scaling::tensor}},
               "one factor per row (column where m < n), or one; auto: one at rank 1");
      o.number("growth_limit", growth_limit, {.least = 0},
               "a step is at most that many times as long as the one before; 0: any");
      o.flag("scale_front", scale_front, "the limiter sees the step with the root of scale in it");
    }
  };

  Apollo(const Options& o, const Site& site)
      : OneSided(Side::automatic, o.rank, site.shape()), o_(o), limiter_(o.growth_limit) {
    hold(site, 0);
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = OneSided::count(Side::automatic, o.rank, shape).trained,
            .stored = o.growth_limit > 0 ? GrowthLimiter::kStored : 0};
  }

  Changes refresh(const Gradient&, const Site& site) override {
    const std::size_t since = site.step % o_.every;
    if (since > 0 || site.step == 0) {
      hold(site, site.step - since);
      return {};
    }
    hold(site, site.step - o_.every);
    held_ = site.step;
    Matrix frame = draw(site, site.step);
    const double contraction = static_cast<double>(rank_) / projected(site.shape());
    return has_left() ? move_frames(std::move(frame), {}, contraction)
                      : move_frames({}, std::move(frame), contraction);
  }
  void retract(const Step& step, Matrix* w) override {
    if (!w || step.ruled.empty()) return;
    Matrix d = step.gradient.materialize();
    const bool whole =
        o_.scaling == Scaling::tensor || (o_.scaling == Scaling::automatic && rank_ == 1);
    const Matrix& n = step.ruled[0];
    const Matrix& r = step.projected[0];
    if (whole) {
      scale(d, length_ratio(std::sqrt(squared_norm(n)), std::sqrt(squared_norm(r))));
    } else {
      scale_channels(d, n, r, has_right() ? Channels::rows : Channels::columns);
    }
    const double root = std::sqrt(o_.scale);
    double factor = root;
    if (o_.growth_limit > 0) {
      factor *= limiter_.limit(std::sqrt(squared_norm(d)) * (o_.scale_front ? root : 1));
    }
    axpy(*w, -step.lr * factor, d);
  }
  void fields(const Visit& visit) override {
    if (o_.growth_limit > 0) limiter_.fields(visit);
  }
  bool needs_gradient() const override { return true; }
  std::size_t refresh_every() const override { return o_.every; }
  bool moments_on_weight() const override { return false; }
  Transport transport() const override { return Transport::keep; }
  double transfer_growth() const override {
    const auto r = static_cast<double>(rank_);
    const double d = static_cast<double>(has_right() ? v_.shape()[1] : u_.shape()[0]);
    return (d + r + 1) / r;
  }
  std::optional<Expectation> expectation() const override {
    const double d = static_cast<double>(has_right() ? v_.shape()[1] : u_.shape()[0]);
    return Expectation{1, (d + 1) / static_cast<double>(rank_)};
  }
  std::string exempt(Law law) const override {
    const bool lifted = law == Law::order || law == Law::formula || law == Law::operation;
    return lifted ? "W moves along G itself; the sketch only says how far" : "";
  }

 private:
  double projected(Shape shape) const {
    return static_cast<double>(has_right() ? shape.cols : shape.rows);
  }
  Matrix draw(const Site& site, std::size_t step) const {  // v: r x n, or u: m x r
    const auto [m, n] = site.shape();
    const double deviation = 1 / std::sqrt(static_cast<double>(rank_));
    return has_left() ? normal({m, rank_}, deviation, site.rng(Purpose::left_frame, step))
                      : normal({rank_, n}, deviation, site.rng(Purpose::right_frame, step));
  }
  void hold(const Site& site, std::size_t step) {
    if (held_ == step) return;
    (has_left() ? u_ : v_) = draw(site, step);
    held_ = step;
  }

  Options o_;
  GrowthLimiter limiter_;
  std::optional<std::size_t> held_;  // the step at which the frame was drawn
};

}  // namespace gradview
