#include "gradview/models/module.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "gradview/models/linear.hpp"

namespace gradview {

std::size_t lowest_stage(const std::vector<WeightSpec>& specs, const Names& trained) {
  std::size_t lowest = SIZE_MAX, found = 0;
  for (const WeightSpec& spec : specs) {
    if (!trained.contains(spec.name)) continue;
    ++found;
    lowest = std::min(lowest, spec.stage);
  }
  if (found == trained.size()) return lowest;
  std::vector<std::string> choices;
  for (const WeightSpec& spec : specs) choices.push_back(spec.name);
  for (const std::string& name : trained) {
    if (std::find(choices.begin(), choices.end(), name) != choices.end()) continue;
    throw std::invalid_argument("the model has no weight '" + name + "'" +
                                did_you_mean(name, choices));
  }
  return lowest;
}

void Linear::declare(std::vector<WeightSpec>& to, std::size_t stage) const {
  to.push_back({weight(), shape, stored, stage});
  if (bias) to.push_back({bias_name(), {1, shape.rows}, Stored::vector, stage});
}

Matrix Linear::forward(const Weights& weights, const Matrix& x, Compute in) const {
  if (bias) return linear_forward({x, in}, {weights[weight()], in}, weights[bias_name()]);
  return matmul_nt({x, in}, {weights[weight()], in});
}

void Linear::add_forward(const Weights& weights, const Matrix& x, Compute in,
                         const DropoutMask& mask, std::size_t first, Matrix& to) const {
  if (mask) {
    Matrix y = forward(weights, x, in);
    mask.apply(y, first);
    axpy(to, 1, y);
    return;
  }
  if (bias) add_bias(to, weights[bias_name()]);
  add_matmul_nt(to, 1, {x, in}, {weights[weight()], in});
}

bool Linear::any_trained(const Names& trained) const {
  return trained.contains(weight()) || (bias && trained.contains(bias_name()));
}

void Linear::collect(const Backward& with, const SharedMatrix& delta, Lazy& x) const {
  if (weight_trained(with.trained)) with.collect(weight(), Gradient::outer(delta, x.get()));
  if (bias && with.trained.contains(bias_name())) {
    with.collect(bias_name(), Gradient::dense(linear_bias_gradient(*delta)));
  }
}

Matrix Linear::input_gradient(const Backward& with, const Matrix& delta) const {
  return linear_input_gradient({delta, with.compute}, {with.weights[weight()], with.compute});
}

void Linear::add_input_gradient(const Backward& with, const Matrix& delta, Matrix& to) const {
  if (to.size() == 0) {
    to = input_gradient(with, delta);
  } else {
    add_matmul(to, 1, {delta, with.compute}, {with.weights[weight()], with.compute});
  }
}

Matrix joint_forward(const std::vector<Linear>& all, const Weights& weights, const Matrix& x,
                     Compute in) {
  if (all.size() == 1) return all[0].forward(weights, x, in);
  std::size_t outputs = 0;
  for (const Linear& linear : all) outputs += linear.shape.rows;
  Matrix w = uninitialized({outputs, x.shape()[1]}), b = zeros({1, outputs});
  Real *to_w = w.data(), *to_b = b.data();
  for (const Linear& linear : all) {
    const Matrix& part = weights[linear.weight()];
    require_shape("joint_forward", linear.module.c_str(), shape_of(part),
                  {linear.shape.rows, x.shape()[1]});
    to_w = std::copy(part.data(), part.data() + part.size(), to_w);
    if (linear.bias) {
      const Matrix& shift = weights[linear.bias_name()];
      std::copy(shift.data(), shift.data() + shift.size(), to_b);
    }
    to_b += linear.shape.rows;
  }
  return linear_forward({x, in}, {w, in}, b);
}

Matrix gather_rows(const Matrix& from, const std::vector<std::size_t>& rows) {
  const std::size_t n = from.shape()[1];
  Matrix some = uninitialized({rows.size(), n});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(from.data() + rows[i] * n, n, some.data() + i * n);
  }
  return some;
}

void scatter_add_rows(Matrix& to, const std::vector<std::size_t>& rows, const Matrix& from) {
  const std::size_t n = to.shape()[1];
  require_shape("scatter_add_rows", "the rows", shape_of(from), {rows.size(), n});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < n; ++j) to.data()[rows[i] * n + j] += from.data()[i * n + j];
  }
}

}  // namespace gradview
