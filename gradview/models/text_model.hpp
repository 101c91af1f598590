// Text model: one surface over what classifies texts and what goes on with them.
//
//     classifier       a loss per sequence: −log softmax over the classes that take part
//     language model   a loss per token whose next one is there
//
// Means are over these units, so that means of parts combine by their numbers of units.
#pragma once

#include <variant>

#include "gradview/models/classifier.hpp"
#include "gradview/models/language_model.hpp"

namespace gradview {

struct TextBatch {
  Tokens tokens;
  std::vector<std::int32_t> labels;  // of a sequence, or of a token; below 0: left out
  std::size_t units() const;         // that count
};

class TextModel {
 public:
  explicit TextModel(Classifier model, Classes classes = {})
      : model_(std::move(model)), classes_(classes) {}
  explicit TextModel(LanguageModel model) : model_(std::move(model)) {}

  bool classifies() const { return std::holds_alternative<Classifier>(model_); }
  const Classifier& classifier() const { return std::get<Classifier>(model_); }
  const LanguageModel& language_model() const { return std::get<LanguageModel>(model_); }
  Classes classes() const { return classes_; }
  const Transformer& trunk() const;
  Transformer& trunk();
  std::vector<WeightSpec> weights() const;
  std::vector<std::string> head() const;  // weights that a new task needs anew: W and b, or none
  std::string tied() const;               // the weight that is used twice, or empty
  bool keeps_first() const;               // how tokens are to be packed

  // `labels` of the sequences; a language model takes none.
  TextBatch batch(Tokens tokens, std::span<const std::int32_t> labels = {}) const;

  Score score(const Weights& weights, const TextBatch& batch) const;
  Score loss_and_gradients(const Weights& weights, const TextBatch& batch, const Training& training,
                           const Collect& collect) const;
  std::size_t outputs() const;                                        // classes, or words
  Matrix logits(const Weights& weights, const Tokens& tokens) const;  // of sequences, or of tokens
  Score score_of(Matrix logits, const TextBatch& batch) const;

 private:
  std::variant<Classifier, LanguageModel> model_;
  Classes classes_;
};

// The mean over parts: add(score, units) of each.
class MeanScore {
 public:
  void add(const Score& score, std::size_t units);
  Score value() const;  // NaN without a unit
  std::size_t units() const { return units_; }

 private:
  double loss_ = 0, correct_ = 0;
  std::size_t units_ = 0;
};

}  // namespace gradview
