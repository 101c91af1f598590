#include "gradview/models/module.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "gradview/models/linear.hpp"
#include "gradview/projections/projector.hpp"

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

// The weight of a layer, in 4 bits or not, and its adapter where a layer must see it.
class Linear::Weight {
 public:
  Weight(const Linear& linear, const Weights& weights, const Seen& in)
      : in_(in), quantised_(weights.quantised(linear.weight())) {
    if (!quantised_) matrix_ = &weights[linear.weight()];
    const Beside beside = weights.beside(linear.weight());
    mask_ = DropoutMask(in.dropout, beside.dropout, linear.module + ".adapter", linear.shape.cols);
    if (beside.projector && (quantised_ || mask_)) update_ = beside.projector->update();
  }
  bool plain() const { return matrix_ && !update_; }

  // to += x Wᵀ and what the adapter adds to it
  void add_forward(const Matrix& x, Matrix& to) const {
    if (!update_) return add_product_nt(x, to);
    const auto& [product, own] = *update_;
    const bool same = !mask_;  // x̃ = x, and W = W₀
    Matrix own_products;       // x Wᵀ, where its rows are rescaled
    if (same && own.size() > 0) {
      own_products = zeros(shape_of(to));
      add_product_nt(x, own_products);
      axpy(to, 1, own_products);
    } else {
      add_product_nt(x, to);
    }
    const Matrix dropped = same ? Matrix() : input(x);
    const Matrix& z = same ? x : dropped;
    if (own.size() > 0) {
      if (!same) {
        own_products = zeros(shape_of(to));
        add_product_nt(z, own_products);
      }
      times_columns(own_products, own);
      axpy(to, 1, own_products);
    }
    add_matmul_nt(to, product.s, matmul_nt(z, product.v), product.u);
  }

  // to += ∂L/∂x
  void add_backward(const Matrix& delta, Matrix& to) const {
    if (!update_) return add_product(delta, to);
    const auto& [product, own] = *update_;
    if (mask_) add_product(delta, to);
    Matrix through = mask_ ? zeros(shape_of(to)) : Matrix();
    Matrix& sum = mask_ ? through : to;  // of δ ΔW
    if (own.size() > 0) {
      Matrix scaled = delta;
      times_columns(scaled, own);
      if (!mask_) axpy(scaled, 1, delta);
      add_product(scaled, sum);
    } else if (!mask_) {
      add_product(delta, sum);
    }
    add_matmul(sum, product.s, matmul(delta, product.u), product.v);
    if (mask_) axpy(to, 1, input(through));
  }

  // x̃, for G = δᵀ x̃; x itself where nothing is dropped
  SharedMatrix seen(const SharedMatrix& x) const {
    if (!mask_) return x;
    Matrix dropped = *x;
    mask_.apply(dropped, in_.first);
    return share(std::move(dropped));
  }

  const Matrix& matrix() const { return *matrix_; }

 private:
  void add_product_nt(const Matrix& x, Matrix& to) const {
    const Operand left(x, in_.compute);
    quantised_ ? add_matmul_nt(to, 1, left, *quantised_)
               : add_matmul_nt(to, 1, left, {*matrix_, in_.compute});
  }
  void add_product(const Matrix& delta, Matrix& to) const {
    const Operand left(delta, in_.compute);
    quantised_ ? add_matmul(to, 1, left, *quantised_)
               : add_matmul(to, 1, left, {*matrix_, in_.compute});
  }
  Matrix input(const Matrix& x) const {  // x̃; x̃ − x where ΔW is inside W
    Matrix z = x;
    mask_.apply(z, in_.first);
    if (!quantised_) axpy(z, -1, x);
    return z;
  }
  static void times_columns(Matrix& a, const Matrix& by) {  // a diag(by)
    const auto [rows, cols] = shape_of(a);
    for (std::size_t t = 0; t < rows; ++t) {
      for (std::size_t i = 0; i < cols; ++i) a.data()[t * cols + i] *= by.data()[i];
    }
  }

  Seen in_;
  const QuantisedMatrix* quantised_;
  const Matrix* matrix_ = nullptr;
  DropoutMask mask_;
  std::optional<WeightUpdate> update_;
};

Matrix Linear::forward(const Weights& weights, const Matrix& x, const Seen& in) const {
  const Weight w(*this, weights, in);
  if (w.plain()) {
    const Operand right(w.matrix(), in.compute);
    return bias ? linear_forward({x, in.compute}, right, weights[bias_name()])
                : matmul_nt({x, in.compute}, right);
  }
  Matrix y = zeros({x.shape()[0], shape.rows});
  if (bias) add_bias(y, weights[bias_name()], true);
  w.add_forward(x, y);
  return y;
}

void Linear::add_forward(const Weights& weights, const Matrix& x, const Seen& in,
                         const DropoutMask& mask, Matrix& to) const {
  if (mask) {
    Matrix y = forward(weights, x, in);
    mask.apply(y, in.first);
    axpy(to, 1, y);
    return;
  }
  if (bias) add_bias(to, weights[bias_name()]);
  Weight(*this, weights, in).add_forward(x, to);
}

bool Linear::any_trained(const Names& trained) const {
  return trained.contains(weight()) || (bias && trained.contains(bias_name()));
}

void Linear::collect(const Backward& with, const SharedMatrix& delta, Lazy& x,
                     std::size_t first) const {
  if (weight_trained(with.trained)) {
    const Weight w(*this, with.weights, {with.compute, with.dropout, first});
    with.collect(weight(), Gradient::outer(delta, w.seen(x.get())));
  }
  if (bias && with.trained.contains(bias_name())) {
    with.collect(bias_name(), Gradient::dense(linear_bias_gradient(*delta)));
  }
}

Matrix Linear::input_gradient(const Backward& with, const Matrix& delta, std::size_t first) const {
  const Weight w(*this, with.weights, {with.compute, with.dropout, first});
  if (w.plain()) return linear_input_gradient({delta, with.compute}, {w.matrix(), with.compute});
  Matrix dx = zeros({delta.shape()[0], shape.cols});
  w.add_backward(delta, dx);
  return dx;
}

void Linear::add_input_gradient(const Backward& with, const Matrix& delta, std::size_t first,
                                Matrix& to) const {
  if (to.size() == 0) {
    to = input_gradient(with, delta, first);
  } else {
    Weight(*this, with.weights, {with.compute, with.dropout, first}).add_backward(delta, to);
  }
}

Matrix joint_forward(const std::vector<Linear>& all, const Weights& weights, const Matrix& x,
                     const Seen& in) {
  if (all.size() == 1) return all[0].forward(weights, x, in);
  const bool apart = std::any_of(all.begin(), all.end(), [&](const Linear& linear) {
    return weights.quantised(linear.weight()) || weights.beside(linear.weight()).projector;
  });
  if (apart) {
    Matrix y = all[0].forward(weights, x, in);
    for (std::size_t i = 1; i < all.size(); ++i) {
      y = side_by_side(y, all[i].forward(weights, x, in));
    }
    return y;
  }
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
  return linear_forward({x, in.compute}, {w, in.compute}, b);
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
