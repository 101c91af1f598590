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

// Row by row over many classes: of row t with label y, −log softmax(z_t)_y, and the logits become
// share · ∂/∂z of it; a label below 0 leaves its row out (0). Throws as above.
struct RowScores {
  double loss = 0;  // the sum over the rows that are not left out
  std::size_t rows = 0, correct = 0;
};
RowScores cross_entropy_rows(Matrix& logits, std::span<const std::int32_t> labels, double share,
                             Classes classes = {});

// 1/(2N) Σ_t ‖y_t − target_t‖²; delta: ∂L/∂y.
double mean_squared_error(const Matrix& y, const Matrix& target, Matrix* delta = nullptr);

}  // namespace gradview
