// relora: LoRA that begins anew every κ steps, so that W may move by more than rank r.
//
//     ΔW = s u v,  s = alpha/r;   at steps κ, 2κ, …:  u ← 0,  v ← U(±1/√n), W as it is
//
// Lialin et al.: ReLoRA: High-Rank Training Through Low-Rank Updates, 2023, arXiv:2307.05695. W
// holds s u v already, so that there is nothing to merge; and v is redrawn wherever u is cleared,
// so that the two are never zero together.
//
// The moments are reset with their step count (transport=auto). The authors' code instead zeroes
// 99.9 % or 90 % of Adam's averages, at random or those of small magnitude, and goes on counting.
// The learning rate's new warm-up is the schedule's: restart_every=κ,restart_warmup=…
#pragma once

#include <cmath>

#include "gradview/projections/lora.hpp"

namespace gradview {

class Relora final : public Projector {
 public:
  struct Options {
    std::size_t rank = 8, every = 1000;
    std::optional<double> alpha;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u, rows of v; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank", "s = alpha/rank");
      o.count("refresh_every", every, {.least = 1}, "steps between two restarts");
    }
  };
  Relora(const Options& o, const Site& site)
      : every_(o.every),
        s_(lora_scale(LoraScaling::standard, o.alpha.value_or(static_cast<double>(o.rank)),
                      o.rank)),
        rank_(capped_rank(o.rank, site.shape())),
        u_(zeros({site.shape().rows, rank_})),
        v_(draw(site)) {}
  static Count count(const Options& o, Shape shape) {
    return {.trained = capped_rank(o.rank, shape) * (shape.rows + shape.cols)};
  }

  // u is in the coordinates of v, whose frame with unit second moment is √(3n/r) v; v in those of
  // u, which is now zero.
  Changes refresh(const Gradient&, const Site& site) override {
    if (site.step == 0 || site.step % every_ != 0) return {};
    Matrix v = draw(site);
    const double size = static_cast<double>(v.shape()[1]) / static_cast<double>(rank_);
    Change of_u{.left = {}, .right = matmul_nt(v_, v), .contraction = 1 / size};
    scale(of_u.right, 3 * size);
    Change of_v{.left = zeros({rank_, rank_}), .right = {}, .contraction = 1};
    u_ = zeros(shape_of(u_));
    v_ = std::move(v);
    return {std::move(of_u), std::move(of_v)};
  }
  Factors project(const Gradient& g, const Matrix&) const override {
    return pull_back(s_, u_, v_, g);
  }
  void lift(const Factors& d, Matrix& w) const override { push_forward(s_, u_, v_, d[0], d[1], w); }
  void retract(const Step& step, Matrix* w) override {
    const Factors& d = step.direction;
    axpy(v_, 1, d[1]);
    if (w) push_forward(s_, u_, v_, d[0], d[1], *w);  // du (v + dv) + u dv
    axpy(u_, 1, d[0]);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return s_ * product_entry(theta[0], theta[1], i, j);
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::trained);
  }
  bool linear() const override { return false; }
  std::size_t refresh_every() const override { return every_; }
  bool moments_on_weight() const override { return false; }
  double transfer_growth() const override {  // of u, while v is near its start
    const auto r = static_cast<double>(rank_);
    return (static_cast<double>(v_.shape()[1]) + r - 0.2) / r;
  }

 private:
  Matrix draw(const Site& site) const {
    const double bound = 1 / std::sqrt(static_cast<double>(site.shape().cols));
    return uniform({rank_, site.shape().cols}, -bound, bound, site.rng(Purpose::init, site.step));
  }

  std::size_t every_;
  double s_;
  std::size_t rank_;
  Matrix u_, v_;
};

}  // namespace gradview
