// Classifier: an encoder with a head for whole sequences.
//
//     cls    p = tanh(Wp h_first + bp), logits = Wc dropout(p) + bc: transformers' own
//     mean   p = mean of the sequence's hidden states, silent rows apart; no tanh
#pragma once

#include "gradview/models/loss.hpp"
#include "gradview/models/transformer.hpp"

namespace gradview {

enum class Pooling { cls, mean };

struct Classifier {
  Transformer trunk;
  std::size_t labels = 2;
  Pooling pooling = Pooling::cls;
  double dropout = 0;
  std::string pooler = "bert.pooler.dense", head = "classifier";  // modules

  std::vector<WeightSpec> weights() const;                            // trunk, pooler, head
  Matrix logits(const Weights& weights, const Tokens& tokens) const;  // sequences x labels
  // The means over the sequences; the gradient of the loss goes to `collect`, the highest weight
  // first. Labels below 0 are left out.
  Score loss_and_gradients(const Weights& weights, const Tokens& tokens,
                           std::span<const std::int32_t> labels, const Training& training,
                           const Collect& collect, Classes classes = {}) const;

 private:
  Linear pooler_layer() const;
  Linear head_layer() const;
  Matrix pooled(const Matrix& states, const Tokens& tokens) const;
  Matrix unpooled(const Matrix& delta, const Tokens& tokens) const;
};

}  // namespace gradview
