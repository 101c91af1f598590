#include "gradview/models/loss.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "gradview/core/linalg.hpp"

namespace gradview {

Score softmax_cross_entropy(const Matrix& logits, std::span<const std::uint8_t> labels,
                            Classes classes, Matrix* delta) {
  const auto [tokens, count] = shape_of(logits);
  classes.last = std::min(classes.last, count);
  if (labels.size() != tokens) {
    throw std::invalid_argument("softmax_cross_entropy: " + std::to_string(labels.size()) +
                                " labels for " + std::to_string(tokens) + " tokens");
  }
  if (delta) *delta = zeros({tokens, count});
  Score score;
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::size_t label = labels[t];
    if (label < classes.first || label >= classes.last) {
      throw std::invalid_argument("softmax_cross_entropy: label " + std::to_string(label) +
                                  " is outside [" + std::to_string(classes.first) + ", " +
                                  std::to_string(classes.last) + ")");
    }
    const Real* z = logits.data() + t * count;
    const Real* largest = std::max_element(z + classes.first, z + classes.last);
    double sum = 0;
    for (std::size_t c = classes.first; c < classes.last; ++c) {
      sum += std::exp(static_cast<double>(z[c]) - *largest);
    }
    score.loss += std::log(sum) + static_cast<double>(*largest) - z[label];
    score.accuracy += largest == z + label;
    if (!delta) continue;
    Real* d = delta->data() + t * count;
    const double share = 1 / static_cast<double>(tokens);
    for (std::size_t c = classes.first; c < classes.last; ++c) {
      const double p = std::exp(static_cast<double>(z[c]) - *largest) / sum;
      d[c] = static_cast<Real>(share * (p - (c == label ? 1 : 0)));
    }
  }
  score.loss /= static_cast<double>(tokens);
  score.accuracy /= static_cast<double>(tokens);
  return score;
}

double mean_squared_error(const Matrix& y, const Matrix& target, Matrix* delta) {
  Matrix off = difference(y, target);
  const auto tokens = static_cast<double>(y.shape()[0]);
  const double loss = squared_norm(off) / (2 * tokens);
  if (delta) {
    scale(off, 1 / tokens);
    *delta = std::move(off);
  }
  return loss;
}

}  // namespace gradview
