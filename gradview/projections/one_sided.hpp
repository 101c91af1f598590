// One-sided projections: what GaLore, Flora, APOLLO, Fira and LDAdam share. There are no persistent
// factors; the subspace is that of a frame, and W moves at once.
//
//     right     Jᵀ G = G vᵀ          J x = x v            v: r x n
//     left      Jᵀ G = uᵀ G          J x = u x            u: m x r
//     both      Jᵀ G = uᵀ G vᵀ       J x = u x v
//
// auto projects the smaller side: right where m >= n, left where m < n, as the authors of GaLore,
// Flora and APOLLO do. A method chooses the frames in refresh().
#pragma once

#include "gradview/projections/projector.hpp"
#include "gradview/projections/tangent.hpp"

namespace gradview {

enum class Side { automatic, left, right, both };

class OneSided : public Projector {
 public:
  Factors project(const Gradient& g, const Matrix&) const override {
    if (!has_left()) return {matmul_nt(g, v_)};
    Matrix out = matmul_tn(u_, g);
    return {has_right() ? matmul_nt(out, v_) : std::move(out)};
  }
  void lift(const Factors& d, Matrix& w) const override {
    if (!has_left()) {
      add_matmul(w, 1, d[0], v_);
    } else {
      add_matmul(w, 1, u_, has_right() ? matmul(d[0], v_) : d[0]);
    }
  }
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
  }

 protected:
  static void declare_side(OptionSet& o, Side& side) {
    o.choice("side", side,
             {{"auto", Side::automatic},
              {"left", Side::left},
              {"right", Side::right},
              {"both", Side::both}},
             "which side of G is projected; auto: the smaller one");
  }
  static Side resolved(Side side, Shape shape) {
    if (side != Side::automatic) return side;
    return shape.rows >= shape.cols ? Side::right : Side::left;
  }
  static Count count(Side side, std::size_t rank, Shape shape) {
    const auto [m, n] = shape;
    const std::size_t r = capped_rank(rank, shape);
    side = resolved(side, shape);
    if (side == Side::both) return {.trained = r * r, .stored = r * (m + n)};
    return side == Side::right ? Count{.trained = r * m, .stored = r * n}
                               : Count{.trained = r * n, .stored = r * m};
  }

  OneSided(Side side, std::size_t rank, Shape shape)
      : side_(resolved(side, shape)), rank_(capped_rank(rank, shape)) {
    if (has_left()) u_ = zeros({shape.rows, rank_});
    if (has_right()) v_ = zeros({rank_, shape.cols});
  }
  bool has_left() const { return side_ != Side::right; }
  bool has_right() const { return side_ != Side::left; }

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
};

}  // namespace gradview
