// A multi-layer perceptron: linear layers "fc1", "fc2", … with an activation between them.
#pragma once

#include <cstdint>

#include "gradview/core/bf16.hpp"
#include "gradview/models/activation.hpp"
#include "gradview/models/weights.hpp"

namespace gradview {

struct Mlp {
  std::vector<std::size_t> sizes;  // inputs, hidden layers, outputs
  Activation activation = Activation::relu;
  Compute compute = Compute::real;  // of the products with W

  std::size_t layers() const { return sizes.size() - 1; }
  std::string weight_name(std::size_t layer) const;  // "fc1.weight" for layer 0
  std::string bias_name(std::size_t layer) const;

  Weights initial(
      std::uint64_t seed) const;  // weights and biases uniform in ±1/√(inputs of the layer)

  struct Pass {
    std::vector<SharedMatrix> inputs;  // of each layer
    std::vector<Operand> weights;      // likewise
    std::vector<Matrix> sums;          // of each hidden layer, before its activation
    Matrix outputs;
  };
  // The pass looks at the weights, which must stay as they are until backward is done.
  Pass forward(const Weights& weights, Matrix x) const;
  Matrix outputs(const Weights& weights, const Matrix& x) const;  // forward, keeping nothing
  // From ∂L/∂outputs to the gradient of every weight and bias, last layer first. A moved pass is let
  // go layer by layer.
  void backward(Pass pass, Matrix delta, const Collect& collect) const;
};

}  // namespace gradview
