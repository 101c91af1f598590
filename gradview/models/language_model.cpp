#include "gradview/models/language_model.hpp"

#include <algorithm>
#include <stdexcept>

#include "gradview/core/linalg.hpp"

namespace gradview {
namespace {

constexpr std::size_t kLogits = std::size_t{1} << 23;  // that are there at once, about

}  // namespace

std::string LanguageModel::head_weight() const {
  return (tied ? trunk.modules.words : head) + ".weight";
}

std::vector<WeightSpec> LanguageModel::weights() const {
  std::vector<WeightSpec> all = trunk.weights();
  if (!tied) {
    all.push_back({head_weight(), {trunk.vocabulary, trunk.width}, Stored::matrix, trunk.stages()});
  }
  return all;
}

Matrix LanguageModel::logits(const Weights& weights, const Tokens& tokens) const {
  return matmul_nt({trunk.forward(weights, tokens), trunk.compute},
                   {weights[head_weight()], trunk.compute});
}

// Only rows with a label take part. delta: ∂L/∂states; gradient: ∂L/∂W is added to it.
Score LanguageModel::head_loss(const Weights& weights, const Matrix& states,
                               std::span<const std::int32_t> labels, Matrix* delta,
                               Matrix* gradient) const {
  if (labels.size() != states.shape()[0]) {
    throw std::invalid_argument("LanguageModel: " + std::to_string(labels.size()) + " labels for " +
                                std::to_string(states.shape()[0]) + " tokens");
  }
  std::vector<std::size_t> rows;
  for (std::size_t t = 0; t < labels.size(); ++t) {
    if (labels[t] >= 0) rows.push_back(t);
  }
  if (rows.empty()) throw std::invalid_argument("LanguageModel: no token has a label");
  if (delta) *delta = zeros(shape_of(states));
  const Operand w(weights[head_weight()], trunk.compute);
  const double share = 1 / static_cast<double>(rows.size());
  const std::size_t block = std::clamp<std::size_t>(kLogits / trunk.vocabulary, 64, 1024);
  Score score;
  for (std::size_t first = 0; first < rows.size(); first += block) {
    const std::size_t last = std::min(first + block, rows.size());
    const std::vector<std::size_t> some(rows.begin() + static_cast<std::ptrdiff_t>(first),
                                        rows.begin() + static_cast<std::ptrdiff_t>(last));
    std::vector<std::int32_t> targets;
    for (const std::size_t t : some) targets.push_back(labels[t]);
    const Matrix h = gather_rows(states, some);
    Matrix z = matmul_nt({h, trunk.compute}, w);
    const RowScores scores = cross_entropy_rows(z, targets, share);
    score.loss += scores.loss * share;
    score.accuracy += static_cast<double>(scores.correct) * share;
    if (delta) scatter_add_rows(*delta, some, matmul({z, trunk.compute}, w));
    if (gradient) add_matmul_tn(*gradient, 1, z, h);
  }
  return score;
}

Score LanguageModel::loss(const Weights& weights, const Tokens& tokens,
                          std::span<const std::int32_t> labels) const {
  return head_loss(weights, trunk.forward(weights, tokens), labels, nullptr, nullptr);
}

Score LanguageModel::loss_and_gradients(const Weights& weights, const Tokens& tokens,
                                        std::span<const std::int32_t> labels,
                                        const Training& training, const Collect& collect) const {
  Transformer::Pass pass;
  pass.lowest = lowest_stage(this->weights(), training.trained);
  const Matrix states = trunk.forward(weights, tokens, false, &training, &pass);
  const bool below = pass.lowest < trunk.stages();
  Matrix delta, gradient;
  const bool head_trained = training.trained.contains(head_weight());
  if (head_trained) gradient = zeros({trunk.vocabulary, trunk.width});
  const Score score = head_loss(weights, states, labels, below ? &delta : nullptr,
                                head_trained ? &gradient : nullptr);
  if (head_trained && !tied) {
    collect(head_weight(), Gradient::dense(std::move(gradient)));
    gradient = Matrix();
  }
  if (below) {
    trunk.backward(weights, std::move(pass), std::move(delta), training, collect,
                   std::move(gradient));
  }
  return score;
}

}  // namespace gradview
