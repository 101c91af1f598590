// The feed-forward layer of a transformer.     y = f(x Wupᵀ + bup) Wdownᵀ + bdown, or gated,
// y = (f(x Wgateᵀ) ∘ (x Wupᵀ)) Wdownᵀ
#pragma once

#include "gradview/models/activation.hpp"
#include "gradview/models/module.hpp"

namespace gradview {

struct FeedForward {
  Activation activation = Activation::gelu;
  std::vector<Linear> inputs;  // up; or gate and up
  Linear output;               // down

  struct Kept {
    std::vector<Matrix> sums;  // before the activation; what comes after it is made again
  };
  Matrix forward(const Weights& weights, const Matrix& x, const Training* training, bool below,
                 Compute in, Kept* kept) const;
  // From δ = ∂L/∂y to ∂L/∂x; empty unless `below`.
  Matrix backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                  bool below) const;

 private:
  bool inputs_trained(const Names& trained) const;
  Matrix hidden(const std::vector<Matrix>& sums) const;
};

}  // namespace gradview
