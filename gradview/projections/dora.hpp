// dora: the rows of W as a magnitude and a direction, the direction adapted by LoRA.
//
//     W_i = (magnitude_i / ‖V_i‖) V_i,   V = W₀ + s u v;     u: m x r, v: r x n, magnitude: m x 1
//     ∂/∂magnitude_i = ⟨G_i, V_i⟩/‖V_i‖,   ∂/∂V_i = (magnitude_i/‖V_i‖)(G_i − v̂_i ⟨v̂_i, G_i⟩)
//
// Liu et al.: DoRA: Weight-Decomposed Low-Rank Adaptation, 2024, arXiv:2402.09353 (whose columns
// are rows here: one magnitude per output). norm=exact is that gradient; norm=detached, which the
// paper proposes and PEFT always does, leaves the bracket's second term out. u = 0, v ~ U(±1/√n)
// and magnitude = ‖W₀‖ by rows at first.
//
// W is all that is kept of W₀: since W_i = magnitude_i v̂_i, V_i = (‖V_i‖ / magnitude_i) W_i, and
// the m norms are stored. Every step renormalises the rows, so that rounding does not add up in
// their lengths; in their directions it does as in any method that adds to W. A magnitude may
// change sign but not become 0, where its row would forget its direction: it stops at 10⁻²⁰ ‖V_i‖.
// A row of zeros has no direction and no gradient, and stays (PEFT divides by its norm: NaN).
//
// Beside a W₀ in 4 bits, c = magnitude/‖V‖ by rows: W = diag(c) (W₀ + s u v) is never formed, and
//
//     ‖V_i‖² = ‖W₀_i‖² + 2 s u_i (v W₀ᵀ)_i + s² u_i (v vᵀ) u_iᵀ
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/parallel.hpp"
#include "gradview/projections/lora.hpp"

namespace gradview {

class Dora final : public Projector {
 public:
  enum class Norm { exact, detached };
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    LoraScaling scaling = LoraScaling::standard;
    Norm norm = Norm::exact;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u, rows of v; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank",
               "numerator of the scale s");
      o.choice("scaling", scaling,
               {{"standard", LoraScaling::standard}, {"rslora", LoraScaling::rslora}},
               "s = alpha/rank, or alpha/√rank");
      o.choice("norm", norm, {{"exact", Norm::exact}, {"detached", Norm::detached}},
               "the gradient goes through ‖V_i‖, or takes it as a constant, as PEFT does");
    }
  };

  Dora(const Options& o, const Site& site)
      : s_(lora_scale(o.scaling, o.alpha.value_or(static_cast<double>(o.rank)), o.rank)),
        detached_(o.norm == Norm::detached),
        weight_(&site.weight),
        base_(site.quantised) {
    const auto [m, n] = site.shape();
    const std::size_t r = capped_rank(o.rank, site.shape());
    const double bound = 1 / std::sqrt(static_cast<double>(n));
    u_ = zeros({m, r});
    v_ = uniform({r, n}, -bound, bound, site.rng(Purpose::init));
    norms_ = zeros({m, 1});
    if (base_) base_squares_ = squared_row_norms(*base_);
    for (std::size_t i = 0; i < m; ++i) {
      norms_(i, 0) = base_ ? std::sqrt(base_squares_(i, 0)) : row_norm(site.weight, i);
    }
    magnitude_ = norms_;
  }
  static Count count(const Options& o, Shape shape) {
    const std::size_t r = capped_rank(o.rank, shape);
    return {.trained = r * (shape.rows + shape.cols) + shape.rows, .stored = shape.rows};
  }

  Changes refresh(const Gradient&, const Site& site) override {
    weight_ = &site.weight;  // what the optimizer moves
    return {};
  }
  Factors project(const Gradient& g, const Matrix& w) const override {
    const Matrix stretch = over(magnitude_, norms_);
    const Matrix gv = matmul_nt(g, v_);
    Matrix lengths = over(base_ ? base_dots(g, gv) : row_dots(g, w), magnitude_);  // ⟨G_i, v̂_i⟩
    Matrix du = rows_times(stretch, gv);
    Matrix dv = matmul_tn(rows_times(stretch, u_), g);
    if (!detached_) {
      const Matrix along = over(lengths, norms_);  // ∂/∂V_i: … − (⟨G_i, v̂_i⟩/‖V_i‖) W_i
      const Matrix pulled = rows_times(along, u_);
      axpy(du, -1, rows_times(along, base_ ? base_times(v_) : matmul_nt(w, v_)));
      axpy(dv, -1, base_ ? base_times_left(pulled) : matmul_tn(pulled, w));
    }
    scale(du, s_);
    scale(dv, s_);
    return {std::move(du), std::move(dv), std::move(lengths)};
  }
  void lift(const Factors& d, Matrix& w) const override { push(d, true, w); }
  void unproject(const Factors& d, Matrix& w) const override { push(d, !detached_, w); }
  void retract(const Step& step, Matrix* w) override {
    const Factors& d = step.direction;
    if (base_) return move_beside(d, w);
    if (!w) throw std::invalid_argument("dora: rescales the rows of W, so W cannot stay frozen");
    const Matrix unstretch = over(norms_, magnitude_);
    const Matrix u = u_;
    move_factors(d);
    parallel_tiles(w->shape()[0], [&](std::size_t first, std::size_t end) {
      Matrix next = zeros({end - first, w->shape()[1]});
      push_forward(s_, rows(u, first, end - first), v_, rows(d[0], first, end - first), d[1],
                   next);  // V′ − V
      for (std::size_t i = first; i < end; ++i) {
        move_row(next, i - first, d[2](i, 0) != 0, unstretch(i, 0), i, *w);
      }
    });
  }
  double entry(const Factors& theta, const Matrix& start, std::size_t i,
               std::size_t j) const override {
    const auto direction = [&](std::size_t column) {
      return start(i, column) + s_ * product_entry(theta[0], theta[1], i, column);
    };
    double squares = 0;
    for (std::size_t k = 0; k < start.shape()[1]; ++k) squares += direction(k) * direction(k);
    return squares > 0 ? theta[2](i, 0) * direction(j) / std::sqrt(squares) : 0;
  }
  std::optional<WeightUpdate> update() const override {  // c = magnitude/‖V‖
    const Matrix c = over(magnitude_, norms_);
    Matrix own = c;  // beside W₀: c − 1; inside W: 1 − 1/c
    for (std::size_t i = 0; i < own.size(); ++i) {
      own.data()[i] = base_ ? c.data()[i] - 1 : c.data()[i] != 0 ? 1 - 1 / c.data()[i] : 0;
    }
    return WeightUpdate{{base_ ? rows_times(c, u_) : u_, v_, s_}, std::move(own)};
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::trained);
    visit("magnitude", magnitude_, Role::trained);
    visit("norms", norms_, Role::frozen);
  }
  bool linear() const override { return false; }
  bool owns_weight() const override { return !base_; }
  std::string note() const override {
    const auto empty = std::count(norms_.begin(), norms_.end(), Real{0});
    if (empty == 0) return "";
    return empty == 1 ? "1 row of zeros stays zero"
                      : std::to_string(empty) + " rows of zeros stay zero";
  }

 private:
  // w_i += (magnitude_i/‖V_i‖)(D_i − v̂_i ⟨v̂_i, D_i⟩) + dmagnitude_i v̂_i,  D = s (du v + u dv);
  // without the middle term where the norm is taken as a constant.
  void push(const Factors& d, bool through_norm, Matrix& w) const {
    const Matrix stretch = over(magnitude_, norms_);
    push_forward(s_, rows_times(stretch, u_), v_, rows_times(stretch, d[0]), d[1], w);
    Matrix own = d[2];
    const auto w_times = [&](const Matrix& x) {
      return base_ ? base_times(x) : matmul_nt(*weight_, x);
    };
    if (through_norm) {
      Matrix along = row_dots(d[0], w_times(v_));
      axpy(along, 1, row_dots(u_, w_times(d[1])));  // ⟨W_i, D_i⟩/s
      axpy(own, -s_, over(std::move(along), norms_));
    }
    own = over(std::move(own), magnitude_);
    if (base_) {
      add_rows(rows_times(own, stretch), 1, w);
    } else {
      for (std::size_t i = 0; i < w.shape()[0]; ++i) add_row(w, own(i, 0), *weight_, i);
    }
  }

  // Beside a W₀ in 4 bits, with W = diag(c) (W₀ + s u v).
  Matrix base_dots(const Gradient& g, const Matrix& gv) const {  // ⟨G_i, W_i⟩
    Matrix dots = row_dots(g, *base_);
    axpy(dots, s_, row_dots(u_, gv));
    return rows_times(over(magnitude_, norms_), std::move(dots));
  }
  Matrix base_times(const Matrix& x) const {  // W xᵀ
    Matrix y = matmul_nt(*base_, x);
    add_matmul_nt(y, s_, u_, matmul_nt(x, v_));  // s u v xᵀ
    return rows_times(over(magnitude_, norms_), std::move(y));
  }
  Matrix base_times_left(const Matrix& x) const {  // xᵀ W
    const Matrix scaled = rows_times(over(magnitude_, norms_), x);
    Matrix y = matmul_tn(scaled, *base_);
    add_matmul(y, s_, matmul_tn(scaled, u_), v_);
    return y;
  }
  void add_rows(const Matrix& c, double sign, Matrix& w) const {  // w += ± diag(c) (W₀ + s u v)
    const Matrix scaled = rows_times(c, u_);
    base_->each_panel([&](std::size_t first, const Matrix& panel) {
      for (std::size_t i = 0; i < panel.shape()[0]; ++i) {
        const Real by = static_cast<Real>(sign) * c(first + i, 0);
        for (std::size_t j = 0; j < panel.shape()[1]; ++j) w(first + i, j) += by * panel(i, j);
      }
    });
    add_matmul(w, sign * s_, scaled, v_);
  }
  void move_beside(const Factors& d, Matrix* w) {
    if (w) add_rows(over(magnitude_, norms_), -1, *w);
    move_factors(d);
    Matrix squares = base_squares_;
    axpy(squares, 2 * s_, row_dots(u_, matmul_nt(*base_, v_)));
    axpy(squares, s_ * s_, row_dots(matmul(u_, matmul_nt(v_, v_)), u_));
    for (std::size_t i = 0; i < squares.size(); ++i) {
      norms_.data()[i] = std::sqrt(std::max(squares.data()[i], Real{0}));
    }
    if (w) add_rows(over(magnitude_, norms_), 1, *w);
  }
  // From V′_i − V_i, row k of `next`, to W_i.
  void move_row(Matrix& next, std::size_t k, bool rescaled, Real unstretch, std::size_t i,
                Matrix& w) {
    const std::size_t n = next.shape()[1];
    Real* const row = next.data() + k * n;
    if (!rescaled && std::all_of(row, row + n, [](Real x) { return x == 0; })) return;
    const Real* const from = weight_->data() + i * n;
    for (std::size_t j = 0; j < n; ++j) row[j] += unstretch * from[j];
    norms_(i, 0) = row_norm(next, k);
    const double least = 1e-20 * norms_(i, 0);
    if (std::abs(magnitude_(i, 0)) < least) {
      magnitude_(i, 0) = static_cast<Real>(std::copysign(least, magnitude_(i, 0)));
    }
    const Real stretch = norms_(i, 0) > 0 ? magnitude_(i, 0) / norms_(i, 0) : 0;
    Real* const to = w.data() + i * n;
    for (std::size_t j = 0; j < n; ++j) {
      const Real now = stretch * row[j];
      to[j] = &w == weight_ ? now : to[j] + (now - from[j]);
    }
  }
  static Matrix over(Matrix a, const Matrix& b) {  // a_i / b_i, and 0 where b_i is
    for (std::size_t i = 0; i < a.size(); ++i) {
      a.data()[i] = b.data()[i] != 0 ? a.data()[i] / b.data()[i] : 0;
    }
    return a;
  }
  static Matrix rows_times(const Matrix& c, Matrix a) {  // diag(c) a
    for (std::size_t i = 0; i < a.shape()[0]; ++i) {
      for (std::size_t k = 0; k < a.shape()[1]; ++k) a(i, k) *= c(i, 0);
    }
    return a;
  }
  static void add_row(Matrix& a, Real s, const Matrix& b, std::size_t i) {  // a_i += s b_i
    for (std::size_t j = 0; j < a.shape()[1]; ++j) a(i, j) += s * b(i, j);
  }
  static Real row_norm(const Matrix& a, std::size_t i) {
    double squares = 0;
    for (std::size_t j = 0; j < a.shape()[1]; ++j) {
      squares += static_cast<double>(a(i, j)) * a(i, j);
    }
    return static_cast<Real>(std::sqrt(squares));
  }

  double s_;
  bool detached_;
  const Matrix* weight_;
  const QuantisedMatrix* base_;  // W₀ in 4 bits; else null
  Matrix base_squares_;          // ‖W₀_i‖², beside it
  Matrix u_, v_, magnitude_, norms_;
};

}  // namespace gradview
