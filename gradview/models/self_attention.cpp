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

std::vector<Span> Rows::groups(std::size_t group, bool shifted) const {
  std::vector<Span> all;
  for (const Span& whole : spans()) {
    std::size_t end = whole.queries <= group ? whole.queries : shifted ? group / 2 : group;
    for (std::size_t begin = 0; begin < whole.queries; begin = end, end += group) {
      const std::size_t count = std::min(end, whole.queries) - begin;
      if (count == 0) continue;
      all.push_back({whole.query + begin, count, whole.key + begin, count, whole.number + begin});
    }
  }
  return all;
}

bool SelfAttention::inputs_trained(const Names& trained) const {
  return std::any_of(inputs.begin(), inputs.end(),
                     [&](const Linear& linear) { return linear.any_trained(trained); });
}

std::vector<SelfAttention::Part> SelfAttention::parts(const Rows& rows, const Dropout* mask,
                                                      bool training) const {
  Attention all{heads, kv_heads, width, causal,
                DropoutMask(mask, dropout, output.module + ".probabilities", longest)};
  if (!group || !training) return {{all, rows.spans()}};
  Attention some = all;
  all.to_head = some.from_head = (heads + 1) / 2;
  return {{all, rows.groups(*group, false)}, {some, rows.groups(*group, true)}};
}

// Where q (0), k or v begins in its array.
std::size_t SelfAttention::column(const std::vector<Matrix>& arrays, std::size_t which) const {
  if (arrays.size() > 1 || which == 0) return 0;
  return (heads + (which == 2 ? kv_heads : 0)) * width;
}

Heads SelfAttention::view(const std::vector<Matrix>& arrays, std::size_t which) const {
  const Matrix& array = arrays[arrays.size() > 1 ? which : 0];
  return {array.data() + column(arrays, which), array.shape()[1]};
}

MutableHeads SelfAttention::view(std::vector<Matrix>& arrays, std::size_t which) const {
  Matrix& array = arrays[arrays.size() > 1 ? which : 0];
  return {array.data() + column(arrays, which), array.shape()[1]};
}

void SelfAttention::turn(std::vector<Matrix>& arrays, const Rope::Table* rope, const Rows& rows,
                         bool back) const {
  if (!rope) return;
  const auto& positions = rows.tokens.positions;
  rotate(arrays[0], 0, heads, *rope, positions, back);
  rotate(arrays[arrays.size() > 1 ? 1 : 0], column(arrays, 1), kv_heads, *rope, positions, back);
}

void SelfAttention::forward(const Weights& weights, const Matrix& x, const Rows& rows,
                            const Rope::Table* rope, const Training* training, bool below,
                            Compute in, const DropoutMask& mask, Kept* kept, Matrix& to) const {
  if (rows.first_only && (inputs.size() == 1 || causal || rope)) {
    throw std::invalid_argument("SelfAttention: the first rows alone are for encoders");
  }
  if (group && (*group < 2 || !causal)) {
    throw std::invalid_argument("SelfAttention: groups are for causal attention, of at least 2");
  }
  const Dropout* const step = training ? training->dropout_or_null() : nullptr;
  const Seen all{in, step, rows.tokens.first_row}, some{in, step, rows.number()};
  std::vector<Matrix> projected;
  if (rows.first_only) {
    for (const Linear& linear : inputs) {
      projected.push_back(projected.empty()
                              ? linear.forward(weights, gather_rows(x, rows.firsts()), some)
                              : linear.forward(weights, x, all));
    }
  } else {
    projected.push_back(joint_forward(inputs, weights, x, all));
  }
  turn(projected, rope, rows, false);
  const bool core = kept && (below || inputs_trained(training->trained));
  Matrix o = uninitialized({rows.count(), heads * width});
  const auto& of = std::as_const(projected);
  for (const Part& part : parts(rows, step, training != nullptr)) {
    part.attention.forward(part.spans, view(of, 0), view(of, 1), view(of, 2), o,
                           core ? &kept->normalizers : nullptr);
  }
  if (core) kept->projected = std::move(projected);
  projected.clear();
  output.add_forward(weights, o, some, mask, to);
  if (kept && output.weight_trained(training->trained)) kept->heads = share(std::move(o));
}

void SelfAttention::backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                             const Rows& rows, const Rope::Table* rope, const Dropout* mask,
                             Matrix* dx) const {
  {
    Lazy o(std::exchange(kept.heads, nullptr));
    output.collect(with, delta, o, rows.number());
  }
  if (!dx && !inputs_trained(with.trained)) return;
  std::vector<Matrix> gradients;
  for (const Linear& linear : inputs) {
    const std::size_t count = gradients.empty() ? rows.count() : rows.tokens.rows();
    gradients.push_back(uninitialized({count, linear.shape.rows}));
  }
  const bool silent = std::any_of(rows.tokens.sequences.begin(), rows.tokens.sequences.end(),
                                  [](const Sequence& s) { return s.silent > 0; });
  for (std::size_t i = inputs.size() > 1 ? 1 : 0; silent && i < inputs.size(); ++i) {
    gradients[i] = zeros(shape_of(gradients[i]));  // no span has these rows as keys
  }
  const auto& of = std::as_const(kept.projected);
  const Matrix dheads = output.input_gradient(with, *delta, rows.number());
  for (const Part& part : parts(rows, mask, true)) {
    part.attention.backward(part.spans, view(of, 0), view(of, 1), view(of, 2), kept.normalizers,
                            dheads, view(gradients, 0), view(gradients, 1), view(gradients, 2));
  }
  kept = {};
  turn(gradients, rope, rows, true);
  for (std::size_t i = inputs.size(); i-- > 0;) {
    const SharedMatrix d = share(std::move(gradients[i]));
    const bool some = rows.first_only && i == 0;
    Lazy firsts([&] { return gather_rows(*x.get(), rows.firsts()); });
    const std::size_t first = some ? rows.number() : rows.tokens.first_row;
    inputs[i].collect(with, d, some ? firsts : x, first);
    if (!dx) continue;
    if (some) {
      scatter_add_rows(*dx, rows.firsts(), inputs[i].input_gradient(with, *d, first));
    } else {
      inputs[i].add_input_gradient(with, *d, first, *dx);
    }
  }
}

}  // namespace gradview
