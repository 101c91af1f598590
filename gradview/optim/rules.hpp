// Update rules: a gradient becomes a direction, element by element, with the averages kept for one
// matrix. The caller moves its matrix by −lr · direction. Defaults, order of operations and results
// are torch.optim's.
#pragma once

#include <functional>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Moments {
  std::size_t step = 0;  // updates so far
  Matrix first,
      second;  // averages of the gradient and of its square; empty where the rule keeps none
  std::size_t size() const { return first.size() + second.size(); }
};

struct UpdateRule {
  std::function<Moments(Shape)> start;
  std::function<void(Matrix& g, Moments& moments)> apply;  // g becomes the direction
};

// g; or with momentum  b ← μ b + g,  direction b, or g + μ b (Nesterov).  first: b, where μ > 0.
struct Sgd {
  double momentum = 0;
  bool nesterov = false;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments) const;
};

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  direction (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) +
// ε). Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv:1412.6980. first: m,
// where β₁ > 0; second: v.
struct Adam {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  Moments start(Shape shape) const;
  void operator()(Matrix& g, Moments& moments) const;
};

template <class Rule>
UpdateRule update_rule(Rule rule) {
  return {[rule](Shape shape) { return rule.start(shape); }, rule};
}

}  // namespace gradview
