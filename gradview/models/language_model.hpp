// Language model: a causal transformer and the logits of the next token.     z = h Wᵀ, W: V x d is
// the table of words (tied) or its own. The N x V logits are made a block of rows at a time.
#pragma once

#include "gradview/models/loss.hpp"
#include "gradview/models/transformer.hpp"

namespace gradview {

struct LanguageModel {
  Transformer trunk;
  bool tied = true;
  std::string head = "lm_head";  // module, where it is not tied

  std::vector<WeightSpec> weights() const;
  std::string head_weight() const;  // the tied table's name, or the head's
  Matrix logits(const Weights& weights, const Tokens& tokens) const;  // N x V: for few tokens
  // Means over the rows whose label (next_ids) is not below 0.
  Score loss(const Weights& weights, const Tokens& tokens,
             std::span<const std::int32_t> labels) const;
  Score loss_and_gradients(const Weights& weights, const Tokens& tokens,
                           std::span<const std::int32_t> labels, const Training& training,
                           const Collect& collect) const;

 private:
  Score head_loss(const Weights& weights, const Matrix& states,
                  std::span<const std::int32_t> labels, Matrix* delta, Matrix* gradient) const;
};

}  // namespace gradview
