#include "gradview/models/mlp.hpp"

#include <cmath>

#include "gradview/core/rng.hpp"
#include "gradview/models/linear.hpp"

namespace gradview {

std::string Mlp::weight_name(std::size_t layer) const {
  return "fc" + std::to_string(layer + 1) + ".weight";
}

std::string Mlp::bias_name(std::size_t layer) const {
  return "fc" + std::to_string(layer + 1) + ".bias";
}

Weights Mlp::initial(std::uint64_t seed) const {
  Weights weights;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    const double bound = 1 / std::sqrt(static_cast<double>(sizes[layer]));
    const auto draw = [&](const std::string& name, Shape shape) {
      weights.add(name, uniform(shape, -bound, bound, Stream(seed, Purpose::model, name)));
    };
    draw(weight_name(layer), {sizes[layer + 1], sizes[layer]});
    draw(bias_name(layer), {1, sizes[layer + 1]});
  }
  return weights;
}

Mlp::Pass Mlp::forward(const Weights& weights, Matrix x) const {
  Pass pass;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    pass.inputs.push_back(share(std::move(x)));
    pass.weights.emplace_back(weights[weight_name(layer)], compute);
    x = linear_forward({*pass.inputs.back(), compute}, pass.weights.back(),
                       weights[bias_name(layer)]);
    if (layer + 1 == layers()) break;
    pass.sums.push_back(x);
    activate(activation, x);
  }
  pass.outputs = std::move(x);
  return pass;
}

Matrix Mlp::outputs(const Weights& weights, const Matrix& x) const {
  Matrix y;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    y = linear_forward({layer == 0 ? x : y, compute}, {weights[weight_name(layer)], compute},
                       weights[bias_name(layer)]);
    if (layer + 1 < layers()) activate(activation, y);
  }
  return y;
}

void Mlp::backward(Pass pass, Matrix delta, const Collect& collect) const {
  for (std::size_t layer = layers(); layer-- > 0;) {
    const SharedMatrix shared = share(std::move(delta));
    if (layer > 0) {
      delta = linear_input_gradient({*shared, compute}, pass.weights[layer]);
      times_derivative(activation, pass.sums[layer - 1], delta);
      pass.sums.pop_back();
    }
    collect(weight_name(layer), Gradient::outer(shared, std::move(pass.inputs[layer])));
    collect(bias_name(layer), Gradient::dense(linear_bias_gradient(*shared)));
  }
}

}  // namespace gradview
