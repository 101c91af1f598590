#include "gradview/models/text_model.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace gradview {

std::size_t TextBatch::units() const {
  return static_cast<std::size_t>(
      std::count_if(labels.begin(), labels.end(), [](std::int32_t y) { return y >= 0; }));
}

const Transformer& TextModel::trunk() const {
  return std::visit([](const auto& model) -> const Transformer& { return model.trunk; }, model_);
}

Transformer& TextModel::trunk() { return const_cast<Transformer&>(std::as_const(*this).trunk()); }

std::vector<WeightSpec> TextModel::weights() const {
  return std::visit([](const auto& model) { return model.weights(); }, model_);
}

std::vector<std::string> TextModel::head() const {
  if (!classifies()) return {};
  return {classifier().head + ".weight", classifier().head + ".bias"};
}

std::string TextModel::tied() const {
  return !classifies() && language_model().tied ? language_model().head_weight() : "";
}

bool TextModel::keeps_first() const { return classifies() && classifier().pooling == Pooling::cls; }

TextBatch TextModel::batch(Tokens tokens, std::span<const std::int32_t> labels) const {
  TextBatch batch{std::move(tokens), {labels.begin(), labels.end()}};
  if (!classifies()) {
    batch.labels = next_ids(batch.tokens);
  } else if (labels.size() != batch.tokens.sequences.size()) {
    throw std::invalid_argument("TextModel: " + std::to_string(labels.size()) + " labels for " +
                                std::to_string(batch.tokens.sequences.size()) + " sequences");
  }
  return batch;
}

Score TextModel::score(const Weights& weights, const TextBatch& batch) const {
  if (!classifies()) return language_model().loss(weights, batch.tokens, batch.labels);
  return score_of(classifier().logits(weights, batch.tokens), batch);
}

std::size_t TextModel::outputs() const {
  return classifies() ? classifier().labels : trunk().vocabulary;
}

Score TextModel::score_of(Matrix logits, const TextBatch& batch) const {
  const RowScores scores = cross_entropy_rows(logits, batch.labels, 0, classes_);
  const auto rows = static_cast<double>(scores.rows);
  if (scores.rows == 0) throw std::invalid_argument("TextModel: nothing has a label");
  return {scores.loss / rows, static_cast<double>(scores.correct) / rows};
}

Score TextModel::loss_and_gradients(const Weights& weights, const TextBatch& batch,
                                    const Training& training, const Collect& collect) const {
  if (!classifies()) {
    return language_model().loss_and_gradients(weights, batch.tokens, batch.labels, training,
                                               collect);
  }
  return classifier().loss_and_gradients(weights, batch.tokens, batch.labels, training, collect,
                                         classes_);
}

Matrix TextModel::logits(const Weights& weights, const Tokens& tokens) const {
  return std::visit([&](const auto& model) { return model.logits(weights, tokens); }, model_);
}

void MeanScore::add(const Score& score, std::size_t units) {
  loss_ += score.loss * static_cast<double>(units);
  correct_ += score.accuracy * static_cast<double>(units);
  units_ += units;
}

Score MeanScore::value() const {
  if (units_ == 0) return {std::numeric_limits<double>::quiet_NaN(), 0};
  return {loss_ / static_cast<double>(units_), correct_ / static_cast<double>(units_)};
}

}  // namespace gradview
