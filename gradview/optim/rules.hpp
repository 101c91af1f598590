// Update rules: a gradient becomes a direction, element by element, with the averages kept for one
// matrix. The caller moves its matrix by −lr · direction. Defaults, order of operations and results
// are torch.optim's.
#pragma once

#include <functional>
#include <optional>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/projections/moments.hpp"

namespace gradview {

struct UpdateRule {
  std::function<Moments(Shape)> start;
  // g becomes the direction; `parameter` is what will move by it.
  std::function<void(Matrix& g, Moments& moments, const Matrix& parameter)> apply;
  // The same and the move in one pass: w ← keep w − lr · direction(g + pull w). Empty where the rule
  // has no such pass.
  std::function<void(Matrix& w, const Matrix& g, Moments& moments, const Move& move)> move = {};
  double memory = 0;  // the share of the first moment that a step keeps: β₁, or the momentum
  std::function<double(std::size_t step)> rate = {};  // multiplies the lr at that update; empty: 1
};

// g; or with momentum  b ← μ b + g,  direction b, or g + μ b (Nesterov).  first: b, where μ > 0.
struct Sgd {
  double momentum = 0;
  bool nesterov = false;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments, const Matrix& parameter) const;
  void move(Matrix& w, const Matrix& g, Moments& moments, const Move& move) const;
  double memory() const { return momentum; }
};

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  direction (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) +
// ε). Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv:1412.6980. first: m,
// where β₁ > 0; second: v. The bias correction is that of the averages (torch), or it multiplies
// the learning rate (AdamW of transformers, which GaLore, APOLLO and Fira copy: direction
// m / (√v + ε), lr · √(1 − β₂ᵗ)/(1 − β₁ᵗ), so that ε counts before it), or there is none.
struct Adam {
  enum class BiasCorrection { moments, rate, none };
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  BiasCorrection bias_correction = BiasCorrection::moments;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments, const Matrix& parameter) const;
  void move(Matrix& w, const Matrix& g, Moments& moments, const Move& move) const;
  double memory() const { return beta1; }
  double rate(std::size_t step) const;

 private:
  AdamStep constants(std::size_t step) const;
};

// β₂ₜ = 1 − t^d,  r ← β₂ₜ r + (1 − β₂ₜ)(row means of g²),  c likewise of the columns,
// x = g / √(r c / mean(r)),  x ← x / max(1, RMS(x)/clip),  direction max(ε₂, RMS(parameter)) x, or
// its average with β₁.  Shazeer, Stern: Adafactor: Adaptive Learning Rates with Sublinear Memory
// Cost, 2018, arXiv:1804.04235.  first: the average, where β₁ > 0; row: r; column: c. Of a parameter
// that is one row or column only the average along it is kept, which is the whole square.
//
// Two official codes. transformers adds ε₁ to g²; the average takes directions with the learning
// rate in them, here without: the same where it is constant. torch bounds r c / mean(r) by ε₁² from
// below, has no β₁, always scales by the parameter, and its learning rate is min(lr, 1/√t), which is
// a schedule's to say. transformers multiplies weight decay by the parameter's scale too, torch and
// we do not.
struct Adafactor {
  enum class Variant { transformers, torch };
  Variant variant = Variant::transformers;
  double beta1 = 0, beta2_decay = -0.8;
  std::optional<double> eps1;  // 1e-30; for torch the machine epsilon
  double eps2 = 1e-3, clip_threshold = 1;
  bool scale_parameter = true;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments, const Matrix& parameter) const;
  double memory() const { return beta1; }
};

template <class Rule>
UpdateRule update_rule(Rule rule) {
  UpdateRule out{.start = [rule](Shape shape) { return rule.start(shape); },
                 .apply = rule,
                 .memory = rule.memory()};
  if constexpr (requires { &Rule::move; }) {
    out.move = [rule](Matrix& w, const Matrix& g, Moments& moments, const Move& move) {
      rule.move(w, g, moments, move);
    };
  }
  if constexpr (requires { rule.rate(std::size_t{1}); }) {
    out.rate = [rule](std::size_t step) { return rule.rate(step); };
  }
  return out;
}

}  // namespace gradview
