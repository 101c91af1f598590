// flora: the rule sees the full gradient, and its momentum is kept as a random sketch M.
//
//     D = rule(G),   W ← W − η ((1 − β) D + β M A),   M ← β M′ + (1 − β) D A′ᵀ
//
// A: r x n with entries N(0, 1/r), so that E[AᵀA] = I; M: m x r. Every κ steps A′ is drawn anew and
// M′ = (M A) A′ᵀ, else A′ = A and M′ = M. Where m < n the sketch is on the left: A: m x r, M: r x n.
// Hao, Cao, Mou: Flora: Low-Rank Adapters Are Secretly Gradient Compressors, 2024, arXiv:2402.03293.
//
// As the authors' torch code: the step has D itself, only the history is compressed; variant=jax
// is their other one, whose M A is already the new one, in which D is counted a second time (its
// transfer is not copied: it reads M back in the frame before, A for A′). The rule is Adafactor,
// on the weight; theirs clips and scales by the parameter after mixing, here clip_threshold and
// scale_parameter, instead of those of the rule. Each transfer multiplies E‖M‖² by (n + r + 1)/r: an
// interval at which that diverges is refused. What compresses the present gradient too is random
// with sides=right and transport=project.
#pragma once

#include <cmath>
#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/projections/projector.hpp"

namespace gradview {

class Flora final : public Projector {
 public:
  enum class Variant { torch, jax };
  struct Options {
    std::size_t rank = 8, every = 1000;
    double beta1 = 0.9, clip_threshold = 0;
    bool scale_parameter = false;
    Variant variant = Variant::torch;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of the sketch; capped at min(m, n)");
      o.count("refresh_every", every, {.least = 1}, "steps between two draws of the frame");
      o.number("beta1", beta1, {.least = 0, .most = 1, .open_above = true}, "β of the momentum");
      o.number("clip_threshold", clip_threshold, {.least = 0},
               "largest root mean square of a step before the learning rate; 0: any");
      o.flag("scale_parameter", scale_parameter, "multiply the step by max(RMS(W), 0.001)");
      o.choice("variant", variant, {{"torch", Variant::torch}, {"jax", Variant::jax}},
               "the momentum of the step before, or with this one's direction in it");
    }
  };

  Flora(const Options& o, const Site& site)
      : o_(o), rank_(capped_rank(o.rank, site.shape())), left_(is_left(site.shape())) {
    const auto [m, n] = site.shape();
    const auto r = static_cast<double>(rank_);
    const double growth = (static_cast<double>(std::min(m, n)) + r + 1) / r;
    if (o.beta1 > 0 && transfer_factor(o.beta1, o.every, growth) >= 1) {
      throw std::invalid_argument(
          "flora on '" + site.name + "': with refresh_every=" + std::to_string(o.every) +
          " the momentum diverges: each transfer multiplies its energy by " + exact(growth) +
          "; take refresh_every=" + std::to_string(least_sound_interval(o.beta1, growth)) +
          " or more, a larger rank or a smaller beta1");
    }
    sketch_ = left_ ? zeros({rank_, n}) : zeros({m, rank_});
    frame_ = draw(site, 0);
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = shape.size(),
            .stored = capped_rank(o.rank, shape) * std::max(shape.rows, shape.cols)};
  }

  Changes refresh(const Gradient&, const Site& site) override {
    const std::size_t t = site.step;
    const bool ahead = o_.variant == Variant::torch;  // the transfer ends a step, or begins it
    const std::size_t from = (ahead || t == 0 ? t : t - 1) / o_.every;
    const std::size_t to = (ahead ? t + 1 : t) / o_.every;
    if (from != drawn_) frame_ = draw(site, from);
    next_ = to == from ? Matrix() : draw(site, to);
    drawn_ = to;
    return {};
  }
  Factors project(const Gradient& g, const Matrix&) const override { return {g.materialize()}; }
  void lift(const Factors& d, Matrix& w) const override { axpy(w, 1, d[0]); }
  void retract(const Step& step, Matrix* w) override {
    Matrix u = step.direction[0];  // −η (1 − β) D
    if (o_.variant == Variant::torch) add_lifted(u, -step.lr * o_.beta1);
    if (next_.size() > 0) transfer();
    scale(sketch_, o_.beta1);
    if (!step.ruled.empty()) {
      const Matrix& d = step.ruled[0];
      axpy(sketch_, 1 - o_.beta1, left_ ? matmul_tn(frame_, d) : matmul_nt(d, frame_));
    }
    if (o_.variant == Variant::jax) add_lifted(u, -step.lr * o_.beta1);
    if (!w) return;
    if (o_.clip_threshold > 0) {
      const double size = root_mean_square(u);
      if (size > step.lr * o_.clip_threshold) scale(u, step.lr * o_.clip_threshold / size);
    }
    if (o_.scale_parameter) scale(u, std::max(1e-3, root_mean_square(*w)));
    axpy(*w, 1, u);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return theta[0](i, j);
  }
  void fields(const Visit& visit) override { visit("momentum", sketch_, Role::frozen); }
  double rate(std::size_t) const override { return 1 - o_.beta1; }
  bool needs_gradient() const override { return true; }
  std::size_t refresh_every() const override { return o_.every; }
  bool moments_on_weight() const override { return true; }
  std::string exempt(Law law) const override {
    if (law == Law::operation && o_.variant == Variant::jax) {
      return "the present direction is counted twice: (1 − β)(D + β D AᵀA)";
    }
    const bool moves =
        law == Law::order || law == Law::inverse || law == Law::formula || law == Law::operation;
    if (moves && (o_.clip_threshold > 0 || o_.scale_parameter)) {
      return "the step is clipped or scaled as a whole";
    }
    return {};
  }

 private:
  static bool is_left(Shape shape) { return shape.rows < shape.cols; }
  static double root_mean_square(const Matrix& a) {
    return std::sqrt(squared_norm(a) / static_cast<double>(a.size()));
  }
  Matrix draw(const Site& site, std::size_t epoch) const {  // A: r x n, or m x r
    const auto [m, n] = site.shape();
    const double deviation = 1 / std::sqrt(static_cast<double>(rank_));
    return left_ ? normal({m, rank_}, deviation, site.rng(Purpose::left_frame, epoch))
                 : normal({rank_, n}, deviation, site.rng(Purpose::right_frame, epoch));
  }
  void add_lifted(Matrix& to, double s) const {
    if (left_) {
      add_matmul(to, s, frame_, sketch_);
    } else {
      add_matmul(to, s, sketch_, frame_);
    }
  }
  void transfer() {
    sketch_ = left_ ? matmul(matmul_tn(next_, frame_), sketch_)
                    : matmul(sketch_, matmul_nt(frame_, next_));
    frame_ = std::move(next_);
    next_ = Matrix();
  }

  Options o_;
  std::size_t rank_;
  bool left_;
  Matrix sketch_;          // M
  Matrix frame_, next_;    // A, and A′ where this step draws it: from the seed, not state
  std::size_t drawn_ = 0;  // the draw that frame_ is, or will be after this step
};

}  // namespace gradview
