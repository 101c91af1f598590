// adalora: triplets (u_i, λ_i, v_i), one per rank, and one budget of them over all matrices.
//
//     ΔW = s u diag(λ) v,  s = alpha/r₀          u: m x r₀, λ: r₀ x 1, v: r₀ x n
//     Jᵀ G = s (G vᵀ diag(λ),  diag(uᵀ G vᵀ),  diag(λ) uᵀ G)
//     loss + γ · mean over all u and v of ‖uᵀu − I‖_F, ‖v vᵀ − I‖_F
//
// After each step the importance of an entry θ with gradient g follows its sensitivity I = |θ g|:
//
//     Ī ← β₁ Ī + (1 − β₁) I,   Ū ← β₂ Ū + (1 − β₂)|I − Ī|,   score = Ī Ū
//     S_i = score(λ_i) + mean_j score(u_ji) + mean_j score(v_ij)
//
// and λ := 0 for all but the b(t) triplets with the highest S, over all matrices together
// (adalora_budget.hpp). θ is what the step made, g the gradient that made it, penalty included.
// Only λ is masked: u, v and the moments live on, and a triplet returns when it matters again.
//
// Zhang et al.: AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023,
// arXiv:2303.10512 (P = u, Λ = λ, Q = v). s keeps the first rank r₀ for ever. The article's penalty
// is the sum of squares (penalty=squared); both official codes have the mean of the norms. Both
// divide by r₀ + 10⁻⁵; variant=peft does too, and variant=official masks at T − t_f only where Δ_T
// divides it, where PEFT and we always do. Both codes mask all triplets up to a threshold, here ties
// are told apart.
#pragma once

#include <cmath>
#include <stdexcept>

#include "gradview/projections/adalora_budget.hpp"
#include "gradview/projections/adalora_importance.hpp"
#include "gradview/projections/tangent.hpp"

namespace gradview {

class AdaLora final : public Projector {
 public:
  enum class Variant { paper, official, peft };
  enum class Penalty { norm, squared };
  struct Options {
    std::size_t rank = 12, every = 1;
    std::optional<double> alpha, target, budget;
    double warmup = 0.1, last = 0.3, beta1 = 0.85, beta2 = 0.85, gamma = 0.1, deviation = 0.02;
    Penalty penalty = Penalty::norm;
    Variant variant = Variant::paper;

    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "triplets of a matrix at first; capped at min(m, n)");
      o.number("target", target, {.least = 1}, "= 2/3 rank",
               "mean number of triplets of a matrix at last");
      o.number("budget", budget, {.least = 1}, "= target · matrices",
               "triplets of all matrices together at last");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank",
               "numerator of the scale s");
      o.number("tinit", warmup, {.least = 0},
               "steps before the budget falls; below 1: a part of the run");
      o.number("tfinal", last, {.least = 0},
               "steps at the final budget; below 1: a part of the run");
      o.count("deltaT", every, {.least = 1}, "steps between two masks while the budget falls");
      o.number("gamma", gamma, {.least = 0}, "weight of the penalty on u and v");
      o.choice("penalty", penalty, {{"norm", Penalty::norm}, {"squared", Penalty::squared}},
               "mean over the matrices of ‖uᵀu − I‖, or the sum of its squares");
      o.number("beta1", beta1, {.least = 0, .most = 1, .open_above = true},
               "memory of the sensitivity");
      o.number("beta2", beta2, {.least = 0, .most = 1, .open_above = true},
               "memory of the uncertainty");
      o.number("deviation", deviation, {.least = 0, .open_below = true}, "of u and v at first");
      o.choice(
          "variant", variant,
          {{"paper", Variant::paper}, {"official", Variant::official}, {"peft", Variant::peft}},
          "alpha/rank; or alpha/(rank + 1e-5), as both codes have it; official may skip a mask");
    }
    double scale() const {
      const auto r = static_cast<double>(rank);
      return alpha.value_or(r) / (variant == Variant::paper ? r : r + 1e-5);
    }
    double mean_target() const {
      return target.value_or(std::max(1.0, std::round(2 * rank / 3.0)));
    }
    BudgetPhases phases(std::size_t steps) const {
      const auto resolved = [&](double phase) {
        const double count = phase < 1 ? phase * static_cast<double>(steps) : phase;
        return static_cast<std::size_t>(std::llround(count));
      };
      return {.warmup = resolved(warmup), .final = resolved(last), .every = every, .steps = steps};
    }
    void check(std::size_t steps) const;
  };

  AdaLora(const Options& o, const Site& site)
      : o_(o), s_(o.scale()), r_(capped_rank(o.rank, site.shape())) {
    o.check(site.steps);
    const auto [m, n] = site.shape();
    u_ = normal({m, r_}, o.deviation, site.rng(Purpose::init, 0));
    v_ = normal({r_, n}, o.deviation, site.rng(Purpose::init, 1));
    lambda_ = zeros({r_, 1});
    for (const Matrix* factor : {&u_, &lambda_, &v_}) importance_.emplace_back(shape_of(*factor));
    kept_ = zeros({r_, 1});
    for (std::size_t i = 0; i < r_; ++i) kept_(i, 0) = 1;
    returns_ = zeros({r_, 1});
  }
  static Count count(const Options& o, Shape shape) {
    const std::size_t r = capped_rank(o.rank, shape);
    const std::size_t trained = r * (shape.rows + 1 + shape.cols);
    return {.trained = trained, .stored = 2 * trained + 2 * r};
  }

  void start(const Gradient&, const Site& site) override {
    if (site.steps > 0) return o_.check(site.steps);
    throw std::invalid_argument("adalora: its phases need the number of steps of the run");
  }
  Factors project(const Gradient& g, const Matrix&) const override {
    Factors out{matmul_nt(g, scaled_rows(lambda_, v_)), uninitialized({r_, 1}), matmul_tn(u_, g)};
    for (std::size_t i = 0; i < r_; ++i) out[1](i, 0) = static_cast<Real>(row_dot(out[2], v_, i));
    out[2] = scaled_rows(lambda_, out[2]);
    for (Matrix& factor : out) scale(factor, s_);
    return out;
  }
  void penalize(Factors& g, const Site& site) const override {
    if (o_.gamma == 0) return;
    const double weight =
        o_.penalty == Penalty::norm ? o_.gamma / (2 * static_cast<double>(site.peers)) : o_.gamma;
    const Matrix left = gram_excess(u_, true);
    const Matrix right = gram_excess(v_, false);
    add_matmul(g[0], weight * slope(left), u_, left);
    add_matmul(g[2], weight * slope(right), right, v_);
  }
  void lift(const Factors& d, Matrix& w) const override {
    Matrix inner = scaled_rows(lambda_, d[2]);
    axpy(inner, 1, scaled_rows(d[1], v_));
    push_forward(s_, u_, scaled_rows(lambda_, v_), d[0], inner, w);
  }
  void retract(const Step& step, Matrix* w) override {
    const Factors& d = step.direction;
    Matrix inner = scaled_rows(lambda_, d[2]);  // λ'v' − λ v = λ dv + dλ (v + dv)
    axpy(v_, 1, d[2]);
    axpy(inner, 1, scaled_rows(d[1], v_));
    axpy(lambda_, 1, d[1]);
    if (w) push_forward(s_, u_, scaled_rows(lambda_, v_), d[0], inner, *w);
    axpy(u_, 1, d[0]);
    gradient_ = step.projected;
  }
  void after_step(std::span<const Peer> peers) override;

  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    double sum = 0;
    for (std::size_t k = 0; k < r_; ++k) {
      sum += static_cast<double>(theta[0](i, k)) * theta[1](k, 0) * theta[2](k, j);
    }
    return s_ * sum;
  }
  std::optional<LowRank> product() const override {  // λ = 0 at first
    return LowRank{u_, scaled_rows(lambda_, v_), s_};
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("lambda", lambda_, Role::trained);
    visit("v", v_, Role::trained);
    for (std::size_t k = 0; k < 3; ++k) {
      const std::string name = std::array{"u", "lambda", "v"}[k];
      visit(name + ".sensitivity", importance_[k].sensitivity, Role::frozen);
      visit(name + ".uncertainty", importance_[k].uncertainty, Role::frozen);
    }
    visit("kept", kept_, Role::frozen);
    visit("returns", returns_, Role::frozen);
  }
  bool linear() const override { return false; }
  // rank: triplets that the last mask kept; live: λ ≠ 0 now; returns: how often one was kept again
  // after it had been masked; penalty: its mean (its sum where squared) over the matrices joins the
  // loss.
  Figures figures() const override;

  double score(std::size_t i) const {  // S_i
    return importance_[1].score(i, 0) + importance_[0].mean_over_column(i) +
           importance_[2].mean_over_row(i);
  }

 private:
  static Matrix scaled_rows(const Matrix& by, Matrix a) {  // diag(by) a
    const auto [r, n] = shape_of(a);
    for (std::size_t i = 0; i < r; ++i) {
      for (std::size_t j = 0; j < n; ++j) a(i, j) *= by(i, 0);
    }
    return a;
  }
  static double row_dot(const Matrix& a, const Matrix& b, std::size_t i) {
    double sum = 0;
    for (std::size_t j = 0; j < a.shape()[1]; ++j) sum += static_cast<double>(a(i, j)) * b(i, j);
    return sum;
  }
  static Matrix gram_excess(const Matrix& a, bool of_columns) {  // aᵀa − I or a aᵀ − I
    Matrix gram = of_columns ? matmul_tn(a, a) : matmul_nt(a, a);
    for (std::size_t i = 0; i < gram.shape()[0]; ++i) gram(i, i) -= 1;
    return gram;
  }
  // ∂‖E‖/∂a = 2 a E/‖E‖ and ∂‖E‖²/∂a = 4 a E, for E = aᵀa − I: the number in front of a E.
  double slope(const Matrix& excess) const {
    if (o_.penalty == Penalty::squared) return 4;
    const double norm = std::sqrt(squared_norm(excess));
    return norm == 0 ? 0 : 2 / norm;
  }
  static void share_out(const std::vector<AdaLora*>& all, std::span<const Peer> peers,
                        std::size_t budget);
  void remember();                                      // the importance of this step
  void keep(const std::vector<bool>& kept, Matrix* w);  // λ_i := 0 for the others

  Options o_;
  double s_;
  std::size_t r_;
  Matrix u_, lambda_, v_;
  std::vector<Importance> importance_;  // of u, λ, v
  Matrix kept_, returns_;               // r₀ x 1
  Factors gradient_;                    // of the step under way
};

}  // namespace gradview
