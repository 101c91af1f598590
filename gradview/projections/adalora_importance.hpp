// The importance of a factor's entries in AdaLoRA: sensitivity times uncertainty, of θ with gradient
// g.
//
//     I = |θ g|,   Ī ← β₁ Ī + (1 − β₁) I,   Ū ← β₂ Ū + (1 − β₂)|I − Ī|,   score = Ī Ū
//
// Zhang et al., 2023, arXiv:2303.10512. Both averages start at zero and are not corrected for it, as
// in both official codes.
#pragma once

#include <cmath>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Importance {
  explicit Importance(Shape shape) : sensitivity(zeros(shape)), uncertainty(zeros(shape)) {}

  void follow(const Matrix& theta, const Matrix& g, double beta1, double beta2) {
    for (std::size_t i = 0; i < theta.size(); ++i) {
      const double now = std::abs(static_cast<double>(theta.data()[i]) * g.data()[i]);
      const double mean = beta1 * sensitivity.data()[i] + (1 - beta1) * now;
      sensitivity.data()[i] = static_cast<Real>(mean);
      uncertainty.data()[i] =
          static_cast<Real>(beta2 * uncertainty.data()[i] + (1 - beta2) * std::abs(now - mean));
    }
  }
  double score(std::size_t i, std::size_t j) const {
    return static_cast<double>(sensitivity(i, j)) * uncertainty(i, j);
  }
  double mean_over_column(std::size_t j) const {
    double sum = 0;
    for (std::size_t i = 0; i < sensitivity.shape()[0]; ++i) sum += score(i, j);
    return sum / static_cast<double>(sensitivity.shape()[0]);
  }
  double mean_over_row(std::size_t i) const {
    double sum = 0;
    for (std::size_t j = 0; j < sensitivity.shape()[1]; ++j) sum += score(i, j);
    return sum / static_cast<double>(sensitivity.shape()[1]);
  }

  Matrix sensitivity, uncertainty;  // Ī, Ū
};

}  // namespace gradview
