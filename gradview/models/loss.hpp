// Losses over N tokens, with their gradient: means over the tokens.
#pragma once

#include <cstdint>
#include <span>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Score {
  double loss = 0;
  double accuracy = 0;
};

struct Classes {  // only the logits [first, last) take part; their labels are first … last − 1
  std::size_t first = 0, last = SIZE_MAX;
};

// −1/N Σ_t log softmax(z_t)[label_t]; accuracy: the share of tokens whose largest logit is the
// label's. Where `delta` is given it becomes ∂L/∂z (N x C), zero outside the classes. Throws
// std::invalid_argument on a label outside the classes.
Score softmax_cross_entropy(const Matrix& logits, std::span<const std::uint8_t> labels,
                            Classes classes = {}, Matrix* delta = nullptr);

// 1/(2N) Σ_t ‖y_t − target_t‖²; delta: ∂L/∂y.
double mean_squared_error(const Matrix& y, const Matrix& target, Matrix* delta = nullptr);

}  // namespace gradview
