#include "gradview/models/loss.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/models/elementary.hpp"
#include "gradview/models/rows.hpp"

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

RowScores cross_entropy_rows(Matrix& logits, std::span<const std::int32_t> labels, double share,
                             Classes classes) {
  const auto [tokens, count] = shape_of(logits);
  classes.last = std::min(classes.last, count);
  if (labels.size() != tokens || classes.first >= classes.last) {
    throw std::invalid_argument("cross_entropy_rows: " + std::to_string(labels.size()) +
                                " labels for " + to_string(shape_of(logits)) + " logits");
  }
  for (const std::int32_t label : labels) {
    const auto at = static_cast<std::size_t>(label);
    if (label < 0 || (at >= classes.first && at < classes.last)) continue;
    throw std::invalid_argument("cross_entropy_rows: label " + std::to_string(label) +
                                " is outside [" + std::to_string(classes.first) + ", " +
                                std::to_string(classes.last) + ")");
  }
  std::vector<double> losses(tokens, 0);
  std::vector<std::uint8_t> correct(tokens, 0);
  const auto factor = static_cast<Real>(share);
  const std::size_t taking = classes.last - classes.first;
  parallel_blocks(tokens, 4, [&, n = count](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      Real* row = logits.data() + t * n;
      if (labels[t] < 0) {
        std::fill_n(row, n, Real{0});
        continue;
      }
      const auto label = static_cast<std::size_t>(labels[t]) - classes.first;
      Real* z = row + classes.first;
      const Real largest = lane_max(z, taking), own = z[label];
      const Real sum =
          lane_sum(taking, [=](std::size_t c) { return z[c] = exponential(z[c] - largest); });
      losses[t] = std::log(static_cast<double>(sum)) + static_cast<double>(largest) - own;
      correct[t] = own == largest;
      const Real scaling = factor / sum;
      for (std::size_t c = 0; c < taking; ++c) z[c] *= scaling;
      z[label] -= factor;
      std::fill(row, z, Real{0});
      std::fill(z + taking, row + n, Real{0});
    }
  });
  RowScores scores;
  for (std::size_t t = 0; t < tokens; ++t) {
    scores.loss += losses[t];
    scores.correct += correct[t];
    scores.rows += labels[t] >= 0;
  }
  return scores;
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
