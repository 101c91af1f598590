// The library's work that is measured, each as one call on ready operands.
#pragma once

#include <memory>
#include <string>

#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"
#include "gradview/projections/tangent.hpp"

namespace gradview::benchmarks {

// (G vᵀ, uᵀ G), from one read of a dense G or from δ and x.
inline Sides project(const Gradient& g, const Matrix& u, const Matrix& v) { return sides(g, u, v); }

// w += du v + u dv in one pass: the change of a product in delta form, v the new right factor.
inline void move_product(Matrix& w, const Matrix& u, const Matrix& v, const Matrix& du,
                         const Matrix& dv) {
  push_forward(1, u, v, du, dv, w);
}

inline Matrix sample(Shape shape, const std::string& name, double deviation = 1) {
  return normal(shape, deviation, {1, Purpose::test, name});
}

// One weight with its optimizer; a step is collect and step, without forward and backward.
struct Layer {
  Layer(Shape shape, const std::string& projector, const std::string& rule, double lr = 1e-6)
      : weight(sample(shape, "w", 0.03)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = lr, .seed = 1}) {
    optimizer.add("w", weight, make_projector(parse_spec(projector), Site{"w", weight, 1}));
  }
  Layer(const Layer&) = delete;
  void step(const Gradient& g) {
    optimizer.collect("w", g);
    optimizer.step();
  }
  Matrix weight;
  Optimizer optimizer;
};

// δ and x of so many tokens.
struct Tokens {
  Tokens(std::size_t tokens, Shape weight)
      : delta(share(sample({tokens, weight.rows}, "delta", 1e-3))),
        x(share(sample({tokens, weight.cols}, "x"))) {}
  Gradient gradient() const { return Gradient::outer(delta, x); }
  SharedMatrix delta, x;
};

}  // namespace gradview::benchmarks
