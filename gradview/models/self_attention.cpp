#include "gradview/models/self_attention.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "gradview/core/linalg.hpp"

namespace gradview {

std::vector<std::size_t> Rows::firsts() const {
  std::vector<std::size_t> rows;
  for (const Sequence& s : tokens.sequences) rows.push_back(s.first);
  return rows;
}

std::vector<Span> Rows::spans() const {
  std::vector<Span> all;
  for (const Sequence& s : tokens.sequences) {
    const std::size_t row = first_only ? all.size() : s.first;
    all.push_back(
        {row, first_only ? 1 : s.count, s.first + s.silent, s.count - s.silent, number() + row});
  }
  return all;
}

bool SelfAttention::inputs_trained(const Names& trained) const {
  return std::any_of(inputs.begin(), inputs.end(),
                     [&](const Linear& linear) { return linear.any_trained(trained); });
}

Attention SelfAttention::attention(const Dropout* mask) const {
  return {heads, kv_heads, width, causal,
          DropoutMask(mask, dropout, output.module + ".probabilities", longest)};
}

std::size_t SelfAttention::column(std::size_t which) const {
  if (inputs.size() > 1 || which == 0) return 0;
  return (heads + (which == 2 ? kv_heads : 0)) * width;
}

Heads SelfAttention::view(const std::vector<Matrix>& arrays, std::size_t which) const {
  const Matrix& array = arrays[inputs.size() > 1 ? which : 0];
  return {array.data() + column(which), array.shape()[1]};
}

MutableHeads SelfAttention::view(std::vector<Matrix>& arrays, std::size_t which) const {
  Matrix& array = arrays[inputs.size() > 1 ? which : 0];
  return {array.data() + column(which), array.shape()[1]};
}

void SelfAttention::turn(std::vector<Matrix>& arrays, const Rope::Table* rope, const Rows& rows,
                         bool back) const {
  if (!rope) return;
  const auto& positions = rows.tokens.positions;
  rotate(arrays[0], 0, heads, *rope, positions, back);
  rotate(arrays[inputs.size() > 1 ? 1 : 0], column(1), kv_heads, *rope, positions, back);
}

Matrix SelfAttention::forward(const Weights& weights, const Matrix& x, const Rows& rows,
                              const Rope::Table* rope, const Training* training, bool below,
                              Compute in, Kept* kept) const {
  if (rows.first_only && (inputs.size() == 1 || causal || rope)) {
    throw std::invalid_argument("SelfAttention: the first rows alone are for encoders");
  }
  std::vector<Matrix> projected;
  for (const Linear& linear : inputs) {
    const bool some = rows.first_only && projected.empty();
    projected.push_back(linear.forward(weights, some ? gather_rows(x, rows.firsts()) : x, in));
  }
  turn(projected, rope, rows, false);
  const bool core = kept && (below || inputs_trained(training->trained));
  Matrix o = uninitialized({rows.count(), heads * width});
  attention(training ? training->dropout_or_null() : nullptr)
      .forward(rows.spans(), view(std::as_const(projected), 0), view(std::as_const(projected), 1),
               view(std::as_const(projected), 2), o, core ? &kept->normalizers : nullptr);
  if (core) kept->projected = std::move(projected);
  projected.clear();
  if (!kept || !output.weight_trained(training->trained)) return output.forward(weights, o, in);
  kept->heads = share(std::move(o));
  return output.forward(weights, *kept->heads, in);
}

Matrix SelfAttention::backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                               const Rows& rows, const Rope::Table* rope, const Dropout* mask,
                               bool below) const {
  {
    Lazy o(std::exchange(kept.heads, nullptr));
    output.collect(with, delta, o);
  }
  if (!below && !inputs_trained(with.trained)) return {};
  const Matrix dheads = output.input_gradient(with, *delta);
  std::vector<Matrix> gradients;
  for (const Matrix& array : kept.projected) gradients.push_back(zeros(shape_of(array)));
  const auto& of = std::as_const(kept.projected);
  attention(mask).backward(rows.spans(), view(of, 0), view(of, 1), view(of, 2), kept.normalizers,
                           dheads, view(gradients, 0), view(gradients, 1), view(gradients, 2));
  kept = {};
  turn(gradients, rope, rows, true);
  Matrix dx;
  if (below) dx = zeros({rows.tokens.rows(), inputs[0].shape.cols});
  for (std::size_t i = inputs.size(); i-- > 0;) {
    const SharedMatrix d = share(std::move(gradients[i]));
    const bool some = rows.first_only && i == 0;
    Lazy firsts([&] { return gather_rows(*x.get(), rows.firsts()); });
    inputs[i].collect(with, d, some ? firsts : x);
    if (!below) continue;
    if (some) {
      scatter_add_rows(dx, rows.firsts(), inputs[i].input_gradient(with, *d));
    } else {
      inputs[i].add_input_gradient(with, *d, dx);
    }
  }
  return dx;
}

}  // namespace gradview
