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
  // to += dropout(y); `to` may be x. `below`: ∂L/∂x will be asked for; kept may be null. `first`: the
  // number of the first row.
  void forward(const Weights& weights, const Matrix& x, const Training* training, bool below,
               Compute in, const DropoutMask& mask, std::size_t first, Kept* kept,
               Matrix& to) const;
  // From δ = ∂L/∂y to dx += ∂L/∂x (empty for 0); dx: null where nobody asks for it.
  void backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                std::size_t first, Matrix* dx) const;

 private:
  bool inputs_trained(const Names& trained) const;
  Matrix hidden(const std::vector<Matrix>& sums) const;
};

}  // namespace gradview
