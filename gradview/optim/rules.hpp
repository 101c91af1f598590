// Update rules: a gradient becomes a direction, element by element, with the averages kept for one
// matrix. The caller moves its matrix by −lr · direction. Defaults, order of operations and results
// are torch.optim's.
#pragma once

#include <functional>

#include "gradview/projections/moments.hpp"

namespace gradview {

struct UpdateRule {
  std::function<Moments(Shape)> start;
  // g becomes the direction; `parameter` is what will move by it.
  std::function<void(Matrix& g, Moments& moments, const Matrix& parameter)> apply;
  double memory = 0;  // the share of the first moment that a step keeps: β₁, or the momentum
};

// g; or with momentum  b ← μ b + g,  direction b, or g + μ b (Nesterov).  first: b, where μ > 0.
struct Sgd {
  double momentum = 0;
  bool nesterov = false;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments, const Matrix& parameter) const;
  double memory() const { return momentum; }
};

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  direction (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) +
// ε). Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv:1412.6980. first: m,
// where β₁ > 0; second: v.
struct Adam {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments, const Matrix& parameter) const;
  double memory() const { return beta1; }
};

template <class Rule>
UpdateRule update_rule(Rule rule) {
  return {[rule](Shape shape) { return rule.start(shape); }, rule, rule.memory()};
}

}  // namespace gradview
