#include "gradview/models/feed_forward.hpp"

#include <algorithm>
#include <utility>

#include "gradview/core/linalg.hpp"

namespace gradview {

bool FeedForward::inputs_trained(const Names& trained) const {
  return std::any_of(inputs.begin(), inputs.end(),
                     [&](const Linear& linear) { return linear.any_trained(trained); });
}

Matrix FeedForward::hidden(const std::vector<Matrix>& sums) const {
  return sums.size() > 1 ? gated(activation, sums[0], sums[1]) : activated(activation, sums[0]);
}

void FeedForward::forward(const Weights& weights, const Matrix& x, const Training* training,
                          bool below, Compute in, const DropoutMask& mask, std::size_t first,
                          Kept* kept, Matrix& to) const {
  std::vector<Matrix> sums;
  const Seen seen{in, training ? training->dropout_or_null() : nullptr, first};
  for (const Linear& linear : inputs) sums.push_back(linear.forward(weights, x, seen));
  const bool keep = kept && (below || inputs_trained(training->trained) ||
                             output.weight_trained(training->trained));
  Matrix h;
  if (!keep && sums.size() == 1) {
    h = std::move(sums[0]);
    activate(activation, h);
  } else {
    h = hidden(sums);
  }
  if (keep) kept->sums = std::move(sums);
  sums.clear();
  output.add_forward(weights, h, seen, mask, to);
}

void FeedForward::backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                           std::size_t first, Matrix* dx) const {
  {
    Lazy h([&] { return hidden(kept.sums); });
    output.collect(with, delta, h, first);
  }
  if (!dx && !inputs_trained(with.trained)) return;
  std::vector<Matrix> gradients;
  gradients.push_back(output.input_gradient(with, *delta, first));
  if (kept.sums.size() > 1) {
    gradients.push_back(gated_gradient(activation, kept.sums[0], kept.sums[1], gradients[0]));
  } else {
    times_derivative(activation, kept.sums[0], gradients[0]);
  }
  kept = {};
  for (std::size_t i = inputs.size(); i-- > 0;) {
    const SharedMatrix d = share(std::move(gradients[i]));
    inputs[i].collect(with, d, x, first);
    if (dx) inputs[i].add_input_gradient(with, *d, first, *dx);
  }
}

}  // namespace gradview
