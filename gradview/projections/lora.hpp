// lora: low-rank adaptation.     ΔW = s u v,  s = alpha/r (standard) or alpha/√r (rslora);  u: m x
// r, v: r x n
//
//     Jᵀ G = s (G vᵀ, uᵀ G)       W' − W = s (du (v + dv) + u dv)
//
// Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv:2106.09685 (B = u, A =
// v). Kalajdzievski: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023,
// arXiv:2312.03732. u = 0 and v ~ U(±1/√n) at first, as PEFT and the authors' code have it (the
// paper writes Gaussian). Any other start leaves W alone as well, since W moves only by what the
// factors moved.
#pragma once

#include <cmath>

#include "gradview/projections/tangent.hpp"

namespace gradview {

enum class LoraScaling { standard, rslora };

inline double lora_scale(LoraScaling scaling, double alpha, std::size_t rank) {
  const auto r = static_cast<double>(rank);
  return scaling == LoraScaling::standard ? alpha / r : alpha / std::sqrt(r);
}

class Lora final : public Projector {
 public:
  enum class Init { zero, gaussian, symmetric };
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    LoraScaling scaling = LoraScaling::standard;
    Init init = Init::zero;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u, rows of v; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank",
               "numerator of the scale s");
      o.choice("scaling", scaling,
               {{"standard", LoraScaling::standard}, {"rslora", LoraScaling::rslora}},
               "s = alpha/rank, or alpha/√rank");
      o.choice("init", init,
               {{"zero", Init::zero}, {"gaussian", Init::gaussian}, {"symmetric", Init::symmetric}},
               "u = 0 with v uniform in ±1/√n, or with v ~ N(0, 1/r²); or both live and balanced");
    }
    double scale() const {  // of the rank asked for, also where a matrix caps it
      return lora_scale(scaling, alpha.value_or(static_cast<double>(rank)), rank);
    }
  };

  Lora(const Options& o, const Site& site) : s_(o.scale()) {
    const auto [m, n] = site.shape();
    const std::size_t r = capped_rank(o.rank, site.shape());
    const Stream rng = site.rng(Purpose::init);
    const double bound = 1 / std::sqrt(static_cast<double>(n));
    u_ = zeros({m, r});
    if (o.init == Init::zero) v_ = uniform({r, n}, -bound, bound, rng);
    if (o.init == Init::gaussian) v_ = normal({r, n}, 1 / static_cast<double>(r), rng);
    if (o.init == Init::symmetric) start_balanced(m, n, r, site);
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = capped_rank(o.rank, shape) * (shape.rows + shape.cols)};
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

 private:
  // u = c P, v = c Q with PᵀP = QQᵀ = I (so uᵀu = vvᵀ) and c² = m/(3(m + n)): then the expected
  // gain of the first step, s²c²(r/n + r/m), is that of u = 0 and v ~ U(±1/√n), s²r/(3n).
  void start_balanced(std::size_t m, std::size_t n, std::size_t r, const Site& site) {
    const double c = std::sqrt(static_cast<double>(m) / (3.0 * static_cast<double>(m + n)));
    u_ = transpose(haar_rows(r, m, site.rng(Purpose::init, 0)));
    v_ = haar_rows(r, n, site.rng(Purpose::init, 1));
    scale(u_, c);
    scale(v_, c);
  }

  double s_;
  Matrix u_, v_;
};

}  // namespace gradview
