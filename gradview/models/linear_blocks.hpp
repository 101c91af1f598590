// A stack of transformer blocks of which the six linear layers alone are kept: what a step costs,
// without attention, norms and embeddings.     q, k, v, o: d x d, up: h x d, down: d x h
//
//     a = (q(x) + k(x) + v(x)) / 3,   z = x + o(a),   y = z + down(relu(up(z)))
//
// No biases. q, k and v share one x. What is no longer needed is let go while the pass is walked
// back, and nothing below the lowest trained weight is computed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gradview/core/bf16.hpp"
#include "gradview/models/weights.hpp"

namespace gradview {

struct LinearBlocks {
  std::size_t width = 768, hidden = 4 * 768, layers = 1;  // d, h, blocks
  Compute compute = Compute::real;                        // of the products with W

  std::string weight_name(std::size_t block, std::string_view linear) const;  // "block1.q.weight"
  std::vector<std::string> weight_names() const;  // q, k, v, o, up, down of each block in turn
  Shape shape(std::size_t weight) const;          // of the weight at this place in the names
  Weights initial(std::uint64_t seed) const;      // uniform in ±1/√(inputs of the layer)

  struct Pass {
    struct Block {
      SharedMatrix x, a, z, f;       // inputs of q k v, of o, of up and of down; f is relu(up(z))
      std::vector<Operand> weights;  // as the names are
    };
    std::vector<Block> blocks;
    Matrix outputs;
  };
  // x: N x d. The pass looks at the weights, which must stay as they are until backward is done.
  Pass forward(const Weights& weights, Matrix x) const;
  Matrix outputs(const Weights& weights, const Matrix& x) const;  // forward, keeping nothing

  // From ∂L/∂outputs (N x d) to the gradient of every weight: down, up, o, v, k, q, last block
  // first. Returns ∂L/∂x; where `lowest` is named, stops once that weight was collected, and
  // returns an empty matrix. Throws std::invalid_argument where there is no such weight.
  Matrix backward(Pass pass, Matrix delta, const Collect& collect,
                  std::string_view lowest = {}) const;
};

}  // namespace gradview
