// vera: two trained vectors around a frozen random product that all matrices share.
//
//     ΔW = diag(b) u diag(d) v          Jᵀ G = (Σ_k (G vᵀ)_ik d_k u_ik, Σ_i (G vᵀ)_ik b_i u_ik)
//
// b: m x 1, d: r x 1 trained; u: m x r, v: r x n frozen. Kopiczko, Blankevoort, Asano: VeRA:
// Vector-based Random Matrix Adaptation, 2023, arXiv:2310.11454 (B = u, A = v); no scale, r may
// exceed min(m, n). b = 0 and d = 0.1 at first. As in PEFT, u and v are Kaiming-uniform and the
// same for every matrix, which takes a slice. PEFT draws them as large as the largest layer and
// scales v by that layer's n; here column k of u and row k of v are streams keyed by k alone, of
// which a matrix takes the first m and n numbers, and v is scaled by its own n: no matrix need know
// the others, and the frames of a smaller rank are the first of a larger one. Each keeps its slice.
#pragma once

#include <cmath>

#include "gradview/projections/tangent.hpp"

namespace gradview {

class Vera final : public Projector {
 public:
  static constexpr bool kCapsRank = false;
  struct Options {
    std::size_t rank = 256;
    double d_initial = 0.1;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1, .most = 65536},
              "columns of u, rows of v, length of d; may exceed min(m, n)");
      o.number("d_initial", d_initial, {.least = 0, .open_below = true}, "entries of d at first");
    }
  };

  Vera(const Options& o, const Site& site) {
    const auto [m, n] = site.shape();
    b_ = zeros({m, 1});
    d_ = zeros({o.rank, 1});
    d_.fill(static_cast<Real>(o.d_initial));
    u_ = transpose(frame(Purpose::left_frame, o.rank, m, o.rank, site));
    v_ = frame(Purpose::right_frame, o.rank, n, n, site);
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = shape.rows + o.rank, .stored = o.rank * (shape.rows + shape.cols)};
  }

  Factors project(const Gradient& g, const Matrix&) const override {
    const Matrix p = matmul_nt(g, v_);
    Factors out{zeros(shape_of(b_)), zeros(shape_of(d_))};
    for (std::size_t i = 0; i < b_.size(); ++i) {
      for (std::size_t k = 0; k < d_.size(); ++k) {
        const Real pulled = p(i, k) * u_(i, k);
        out[0](i, 0) += pulled * d_(k, 0);
        out[1](k, 0) += pulled * b_(i, 0);
      }
    }
    return out;
  }
  void lift(const Factors& x, Matrix& w) const override { push(x[0], x[1], d_, w); }
  void retract(const Step& step, Matrix* w) override {
    const Factors& x = step.direction;
    axpy(d_, 1, x[1]);
    if (w) push(x[0], x[1], d_, *w);  // db (d + dd) + b dd
    axpy(b_, 1, x[0]);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    double sum = 0;
    for (std::size_t k = 0; k < d_.size(); ++k) {
      sum += static_cast<double>(u_(i, k)) * theta[1](k, 0) * v_(k, j);
    }
    return theta[0](i, 0) * sum;
  }
  std::optional<LowRank> product() const override {
    LowRank made{u_, v_, 1};
    for (std::size_t i = 0; i < b_.size(); ++i) {
      for (std::size_t k = 0; k < d_.size(); ++k) made.u(i, k) *= b_(i, 0) * d_(k, 0);
    }
    return made;
  }
  void fields(const Visit& visit) override {
    visit("b", b_, Role::trained);
    visit("d", d_, Role::trained);
    visit("u", u_, Role::frozen);
    visit("v", v_, Role::frozen);
  }
  bool linear() const override { return false; }

 private:
  // Row k: the first `length` numbers of stream k, uniform in ±√(6/fan_in).
  static Matrix frame(Purpose side, std::size_t rank, std::size_t length, std::size_t fan_in,
                      const Site& site) {
    const double bound = std::sqrt(6 / static_cast<double>(fan_in));
    Matrix a = uninitialized({rank, length});
    for (std::size_t k = 0; k < rank; ++k) {
      const Matrix row = uniform({1, length}, -bound, bound, Stream(site.seed, side, "vera", k));
      std::copy_n(row.data(), length, a.data() + k * length);
    }
    return a;
  }
  // w += (diag(db) u diag(d) + diag(b) u diag(dd)) v
  void push(const Matrix& db, const Matrix& dd, const Matrix& d, Matrix& w) const {
    Matrix left = u_;
    for (std::size_t i = 0; i < b_.size(); ++i) {
      for (std::size_t k = 0; k < d_.size(); ++k) {
        left(i, k) *= db(i, 0) * d(k, 0) + b_(i, 0) * dd(k, 0);
      }
    }
    add_products(w, 1, {{left, v_}});
  }

  Matrix b_, d_, u_, v_;
};

}  // namespace gradview
