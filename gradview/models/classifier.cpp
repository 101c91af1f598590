#include "gradview/models/classifier.hpp"

#include <algorithm>
#include <stdexcept>

#include "gradview/core/linalg.hpp"

namespace gradview {

Linear Classifier::pooler_layer() const { return {pooler, {trunk.width, trunk.width}}; }
Linear Classifier::head_layer() const { return {head, {labels, trunk.width}}; }

std::vector<WeightSpec> Classifier::weights() const {
  std::vector<WeightSpec> all = trunk.weights();
  if (pooling == Pooling::cls) pooler_layer().declare(all, trunk.stages());
  head_layer().declare(all, trunk.stages() + 1);
  return all;
}

Matrix Classifier::pooled(const Matrix& states, const Tokens& tokens) const {
  const std::size_t d = trunk.width;
  Matrix means = zeros({tokens.sequences.size(), d});
  for (std::size_t b = 0; b < tokens.sequences.size(); ++b) {
    const Sequence& s = tokens.sequences[b];
    Real* to = means.data() + b * d;
    for (std::size_t t = s.first + s.silent; t < s.first + s.count; ++t) {
      for (std::size_t i = 0; i < d; ++i) to[i] += states.data()[t * d + i];
    }
    const Real share = 1 / static_cast<Real>(s.count - s.silent);
    for (std::size_t i = 0; i < d; ++i) to[i] *= share;
  }
  return means;
}

Matrix Classifier::unpooled(const Matrix& delta, const Tokens& tokens) const {
  const std::size_t d = trunk.width;
  Matrix states = zeros({tokens.rows(), d});
  for (std::size_t b = 0; b < tokens.sequences.size(); ++b) {
    const Sequence& s = tokens.sequences[b];
    const Real share = 1 / static_cast<Real>(s.count - s.silent);
    for (std::size_t t = s.first + s.silent; t < s.first + s.count; ++t) {
      for (std::size_t i = 0; i < d; ++i) {
        states.data()[t * d + i] = share * delta.data()[b * d + i];
      }
    }
  }
  return states;
}

Matrix Classifier::logits(const Weights& weights, const Tokens& tokens) const {
  const bool first = pooling == Pooling::cls;
  Matrix p = trunk.forward(weights, tokens, first);
  if (first) {
    p = pooler_layer().forward(weights, p, {trunk.compute});
    activate(Activation::tanh, p);
  } else {
    p = pooled(p, tokens);
  }
  return head_layer().forward(weights, p, {trunk.compute});
}

Score Classifier::loss_and_gradients(const Weights& weights, const Tokens& tokens,
                                     std::span<const std::int32_t> targets,
                                     const Training& training, const Collect& collect,
                                     Classes classes) const {
  const std::size_t counted = static_cast<std::size_t>(
      std::count_if(targets.begin(), targets.end(), [](std::int32_t y) { return y >= 0; }));
  if (counted == 0) throw std::invalid_argument("Classifier: no sequence has a label");
  const bool first = pooling == Pooling::cls;
  const double share = 1 / static_cast<double>(counted);
  const DropoutMask mask(training.dropout_or_null(), dropout, head, trunk.width);
  Transformer::Pass pass;
  pass.lowest = lowest_stage(this->weights(), training.trained);
  Matrix states = trunk.forward(weights, tokens, first, &training, &pass);
  const Dropout* const step = training.dropout_or_null();
  const std::size_t row = tokens.first_sequence;
  const Seen seen{trunk.compute, step, row};
  Matrix p = first ? pooler_layer().forward(weights, states, seen) : pooled(states, tokens);
  Matrix sums;
  if (first) {
    sums = p;
    activate(Activation::tanh, p);
  }
  mask.apply(p, row);
  Matrix delta = head_layer().forward(weights, p, seen);
  const RowScores scores = cross_entropy_rows(delta, targets, share, classes);
  const Score score{scores.loss * share, static_cast<double>(scores.correct) * share};

  const Backward with{weights, training.trained, collect, trunk.compute, step};
  const SharedMatrix d = gradview::share(std::move(delta));
  Lazy head_input(gradview::share(std::move(p)));
  head_layer().collect(with, d, head_input, row);
  if (pass.lowest > trunk.stages()) return score;
  Matrix dp = head_layer().input_gradient(with, *d, row);
  mask.apply(dp, row);
  if (first) {
    times_derivative(Activation::tanh, sums, dp);
    const SharedMatrix dsums = gradview::share(std::move(dp));
    Lazy pooler_input(gradview::share(std::move(states)));
    pooler_layer().collect(with, dsums, pooler_input, row);
    if (pass.lowest == trunk.stages()) return score;
    dp = pooler_layer().input_gradient(with, *dsums, row);
  } else {
    dp = unpooled(dp, tokens);
  }
  states = Matrix();
  trunk.backward(weights, std::move(pass), std::move(dp), training, collect);
  return score;
}

}  // namespace gradview
