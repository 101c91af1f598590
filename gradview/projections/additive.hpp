// additive: ΔW as a sum instead of a product.     ΔW_ij = u_i,(j mod r) / √c_(j mod r) + v_(i mod
// r),j / √d_(i mod r)
//
//     ΔW = u J_n + J_mᵀ v,   Jᵀ G = (G J_nᵀ, J_m G);   J_d = [I_r I_r …] with rows of unit length,
//     u: m x r, v: r x n
//
// Su: LoRA from a gradient perspective, blog post 9590, 2023, section on variants: r = 1 gives row
// and column sums, r > 1 the block form, for r that divides m and n. Here any r does (c_k, d_k: how
// often a column, a row falls on k), and the frames have unit length (raw: plain ones), which keeps
// the learning rate independent of m and n. Linear in θ: no second-order term. Before a softmax the
// columns of G sum to zero, so that v gets no gradient for r = 1 but rounding noise, which Adam
// would turn into full steps: there v is left out.
#pragma once

#include <cmath>

#include "gradview/projections/projector.hpp"

namespace gradview {

class Additive final : public Projector {
 public:
  enum class Frames { unit, raw };
  struct Options {
    std::size_t rank = 1;
    Frames frames = Frames::unit;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u, rows of v; capped at min(m, n)");
      o.choice("frames", frames, {{"unit", Frames::unit}, {"raw", Frames::raw}},
               "rows of J_n and J_m of unit length, or the article's ones");
    }
  };

  Additive(const Options& o, const Site& site)
      : rank_(capped_rank(o.rank, site.shape())), trains_v_(!(site.before_softmax && rank_ == 1)) {
    const auto [m, n] = site.shape();
    u_ = zeros({m, rank_});
    v_ = zeros({rank_, n});
    for (std::size_t k = 0; k < rank_; ++k) {
      const bool raw = o.frames == Frames::raw;
      column_scale_.push_back(raw ? 1 : 1 / std::sqrt(static_cast<double>(multiples(n, k))));
      row_scale_.push_back(raw ? 1 : 1 / std::sqrt(static_cast<double>(multiples(m, k))));
    }
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = capped_rank(o.rank, shape) * (shape.rows + shape.cols)};
  }

  Factors project(const Gradient& g, const Matrix&) const override {
    Sides sides = trains_v_ ? folded(g, rank_) : Sides{fold_columns(g, rank_), zeros(shape_of(v_))};
    Factors out{std::move(sides.right), std::move(sides.left)};
    weigh(out);
    return out;
  }
  void lift(const Factors& d, Matrix& w) const override {
    Factors weighted = d;
    weigh(weighted);
    add_unfolded(w, weighted[0], weighted[1]);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return column_scale_[j % rank_] * theta[0](i, j % rank_) +
           row_scale_[i % rank_] * theta[1](i % rank_, j);
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::trained);
  }
  std::string note() const override {
    return trains_v_ ? "" : "v has no gradient before a softmax and stays";
  }

 private:
  std::size_t multiples(std::size_t d, std::size_t k) const {  // how many of 0 … d−1 are ≡ k mod r
    return d / rank_ + (k < d % rank_);
  }
  void weigh(Factors& f) const {  // columns of f[0] by column_scale_, rows of f[1] by row_scale_
    for (std::size_t i = 0; i < f[0].shape()[0]; ++i) {
      for (std::size_t k = 0; k < rank_; ++k) f[0](i, k) *= static_cast<Real>(column_scale_[k]);
    }
    for (std::size_t k = 0; k < rank_; ++k) {
      for (std::size_t j = 0; j < f[1].shape()[1]; ++j)
        f[1](k, j) *= static_cast<Real>(row_scale_[k]);
    }
  }

  std::size_t rank_;
  bool trains_v_;
  std::vector<double> column_scale_, row_scale_;  // 1/√c_k, 1/√d_k
  Matrix u_, v_;
};

}  // namespace gradview
