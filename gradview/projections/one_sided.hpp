// One-sided projections: what GaLore, Flora, APOLLO, Fira and LDAdam share. There are no persistent
// factors; the subspace is that of a frame, and W moves at once.
//
//     right     Jᵀ G = G vᵀ          J x = x v            v: r x n
//     left      Jᵀ G = uᵀ G          J x = u x            u: m x r
//     both      Jᵀ G = uᵀ G vᵀ       J x = u x v
//
// auto projects the smaller side: right where m >= n, left where m < n, as the authors of GaLore,
// Flora and APOLLO do; long the other one. A method chooses the frames in refresh().
//
// With error feedback, what the projection leaves out of a gradient is added to the next one:
//
//     A = G + e,   W moves by rule(Jᵀ A),   e ← A − J Jᵀ A          e: m x n
//
// so that under plain descent all that was applied, plus e, is all that came. Vogels, Karimireddy,
// Jaggi: PowerSGD, 2019, arXiv:1905.13727. This needs J Jᵀ to be a projection, which orthonormal
// frames make it; for random ones with E[J Jᵀ] = I the error grows without bound. G is clipped
// before e joins it. Not with moments=lifted, where e would enter twice.
#pragma once

#include "gradview/projections/projector.hpp"
#include "gradview/projections/tangent.hpp"

namespace gradview {

enum class Side { automatic, left, right, both, longer };

class OneSided : public Projector {
 public:
  Factors project(const Gradient& g, const Matrix&) const override { return {pulled(g)}; }
  void precondition(Factors& g, const Site&) const override {
    if (feeds_back()) axpy(g[0], 1, pulled(error_));
  }
  void lift(const Factors& d, Matrix& w) const override {
    if (!has_left()) {
      add_products(w, 1, {{d[0], v_}});
    } else {
      add_products(w, 1, {{u_, has_right() ? matmul(d[0], v_) : d[0]}});
    }
  }
  void retract(const Step& step, Matrix* w) override {
    if (w) lift(step.direction, *w);
    if (!feeds_back()) return;
    axpy(error_, 1, step.gradient.materialize());
    lift(times(step.projected, -1), error_);
  }
  bool needs_gradient() const override { return feeds_back(); }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    if (!has_left()) return product_entry(theta[0], v_, i, j);
    if (!has_right()) return product_entry(u_, theta[0], i, j);
    double entry = 0;
    for (std::size_t k = 0; k < theta[0].shape()[0]; ++k) {
      entry += static_cast<double>(u_(i, k)) * [&] {
        double row = 0;
        for (std::size_t l = 0; l < v_.shape()[0]; ++l) row += theta[0](k, l) * v_(l, j);
        return row;
      }();
    }
    return entry;
  }
  void fields(const Visit& visit) override {
    if (has_left()) visit("u", u_, Role::frozen);
    if (has_right()) visit("v", v_, Role::frozen);
    if (feeds_back()) visit("error", error_, Role::frozen);
  }

 protected:
  static constexpr bool kOneSide = false;
  static void declare_side(OptionSet& o, Side& side, bool both = true) {
    std::vector<std::pair<const char*, Side>> sides{{"auto", Side::automatic},
                                                    {"left", Side::left},
                                                    {"right", Side::right},
                                                    {"long", Side::longer}};
    if (both) sides.insert(sides.begin() + 3, {"both", Side::both});
    o.choice("side", side, std::move(sides),
             "which side of G is projected; auto: the smaller one; long: the larger one");
  }
  static void declare_error_feedback(OptionSet& o, bool& on) {
    o.flag("error_feedback", on, "add what the projection left out to the next gradient; m x n");
  }
  static Side resolved(Side side, Shape shape) {
    if (side != Side::automatic && side != Side::longer) return side;
    const bool tall = shape.rows >= shape.cols;
    return tall == (side == Side::automatic) ? Side::right : Side::left;
  }
  static Count count(Side side, std::size_t rank, Shape shape, bool error_feedback = false) {
    const auto [m, n] = shape;
    const std::size_t r = capped_rank(rank, shape);
    const std::size_t error = error_feedback ? m * n : 0;
    side = resolved(side, shape);
    if (side == Side::both) return {.trained = r * r, .stored = r * (m + n) + error};
    return side == Side::right ? Count{.trained = r * m, .stored = r * n + error}
                               : Count{.trained = r * n, .stored = r * m + error};
  }

  OneSided(Side side, std::size_t rank, Shape shape, bool error_feedback = false)
      : side_(resolved(side, shape)), rank_(capped_rank(rank, shape)) {
    if (error_feedback) error_ = zeros(shape);
    if (has_left()) u_ = zeros({shape.rows, rank_});
    if (has_right()) v_ = zeros({rank_, shape.cols});
  }
  bool has_left() const { return side_ != Side::right; }
  bool has_right() const { return side_ != Side::left; }
  bool has_frames() const { return squared_norm(has_right() ? v_ : u_) > 0; }  // chosen yet?
  bool feeds_back() const { return error_.size() > 0; }
  Gradient compensated(Gradient g) const {  // G + e
    if (feeds_back()) g.add(Gradient::dense(error_));
    return g;
  }
  static Matrix times(Matrix a, double s) {
    scale(a, s);
    return a;
  }
  static Factors times(Factors f, double s) {
    for (Matrix& factor : f) scale(factor, s);
    return f;
  }
  template <class Full>  // Gradient or Matrix, m x n
  Matrix pulled(const Full& g) const {
    if (!has_left()) return matmul_nt(g, v_);
    Matrix out = matmul_tn(u_, g);
    return has_right() ? matmul_nt(out, v_) : out;
  }

  // Takes the new frames; how the coordinates changed.
  Changes move_frames(Matrix u, Matrix v, double contraction = 1) {
    Change change{.left = {}, .right = {}, .contraction = contraction};
    if (has_left()) change.left = matmul_tn(u, u_);
    if (has_right()) change.right = matmul_nt(v_, v);
    u_ = std::move(u);
    v_ = std::move(v);
    return {std::move(change)};
  }

  Side side_;
  std::size_t rank_;
  Matrix u_, v_;  // frames; empty on a side that is not projected
  Matrix error_;  // e; empty without error feedback
};

}  // namespace gradview
