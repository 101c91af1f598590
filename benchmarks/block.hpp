// The training step of a transformer block's six linear layers: forward, backward with dX needed
// everywhere, the block's input among it, and the optimizer. The loss is ⟨y, δ⟩ for a fixed δ.
#pragma once

#include <string>

#include "gradview/models/linear_blocks.hpp"
#include "work.hpp"

namespace gradview::benchmarks {

struct Block {
  Block(std::size_t width, std::size_t tokens, const std::string& projector,
        const std::string& rule, double lr = 1e-6)
      : model{.width = width, .hidden = 4 * width, .layers = 1},
        weights(model.initial(1)),
        x(sample({tokens, width}, "x")),
        delta(sample({tokens, width}, "delta", 1e-3)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = lr, .seed = 1}) {
    for (auto& [name, weight] : weights) {
      optimizer.add(name, weight, make_projector(parse_spec(projector), Site{name, weight, 1}));
    }
  }
  Block(const Block&) = delete;

  void step() {
    LinearBlocks::Pass pass = model.forward(weights, x);
    y = std::move(pass.outputs);
    dx = model.backward(std::move(pass), delta, [&](const std::string& name, const Gradient& g) {
      optimizer.collect(name, g);
    });
    optimizer.step();
  }

  LinearBlocks model;
  Weights weights;
  Matrix x, delta, y, dx;
  Optimizer optimizer;
};

}  // namespace gradview::benchmarks
