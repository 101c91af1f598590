// full: full-rank training, the trivial projector.     θ = W,  J = I
#pragma once

#include "gradview/projections/projector.hpp"

namespace gradview {

class Full final : public Projector {
 public:
  using Options = NoOptions;
  Full(const Options&, const Site&) {}
  static Count count(const Options&, Shape shape) { return {.trained = shape.size()}; }

  Factors project(const Gradient& g, const Matrix&) const override { return {g.materialize()}; }
  void lift(const Factors& u, Matrix& w) const override { axpy(w, 1, u[0]); }
  bool is_weight() const override { return true; }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return theta[0](i, j);
  }
};

}  // namespace gradview
