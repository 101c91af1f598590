// bitfit: weights stay as they are; only the biases are trained.     ΔW = 0
// Ben Zaken, Goldberg, Ravfogel: BitFit: Simple Parameter-efficient Fine-tuning for
// Transformer-based Masked Language-models, 2021, arXiv:2106.10199.
#pragma once

#include "gradview/projections/projector.hpp"

namespace gradview {

class BitFit final : public Projector {
 public:
  static constexpr bool kTrainsBiases = true;
  using Options = NoOptions;
  BitFit(const Options&, const Site&) {}
  static Count count(const Options&, Shape) { return {}; }

  Factors project(const Gradient&, const Matrix&) const override { return {}; }
  void lift(const Factors&, Matrix&) const override {}
  double entry(const Factors&, const Matrix&, std::size_t, std::size_t) const override { return 0; }
  std::string exempt(Law law) const override {
    return law == Law::descent || law == Law::operation
               ? "no weight moves; the biases are trained under full"
               : "";
  }
};

}  // namespace gradview
