#include "gradview/experiments/replay/replay_files.hpp"

#include <algorithm>
#include <array>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

const std::string kDelta = ".delta", kX = ".x";

std::string stem_of(const std::string& name) {  // empty where it is no name of half a pair
  for (const std::string& end : {kDelta, kX}) {
    if (name.ends_with(end)) return name.substr(0, name.size() - end.size());
  }
  return {};
}

struct Extent {
  std::string text;
  std::size_t value = 0;  // 0: any, at least 1
};

Extent exactly(std::size_t value) { return {std::to_string(value), value}; }

void require_extents(const std::string& who, const Tensor& tensor,
                     const std::array<Extent, 3>& expected) {
  bool fits = tensor.shape.size() == expected.size();
  for (std::size_t i = 0; fits && i < expected.size(); ++i) {
    fits = expected[i].value == 0 ? tensor.shape[i] > 0 : tensor.shape[i] == expected[i].value;
  }
  if (fits) return;
  std::vector<std::string> words, free;
  for (const Extent& extent : expected) {
    words.push_back(extent.text);
    if (extent.value == 0) free.push_back(extent.text);
  }
  throw DataError(who + " has shape " + to_string(tensor.shape) + ", expected [" +
                  join(words, ", ") + "]" +
                  (free.empty() ? "" : " with " + join(free, " and ") + " at least 1"));
}

void require_floats(const std::string& who, const Tensor& tensor) {
  for (const char* known : {"F64", "F32", "F16", "BF16"}) {
    if (tensor.dtype == known) return;
  }
  throw DataError(who + " has dtype " + tensor.dtype + ", expected F64, F32, F16 or BF16");
}

std::string who(const SafetensorsReader& reader, const Tensor& tensor) {
  return reader.path() + ": tensor " + quoted_name(tensor.name);
}

void require_finite(const Matrix& values, const std::string& who) {
  if (all_finite(values)) return;
  throw DataError(who + " has a number that is not finite" + (sizeof(Real) == 4 ? " as F32" : ""));
}

Matrix finite_matrix(const SafetensorsReader& reader, const Tensor& tensor) {
  Matrix values = reader.matrix(tensor);
  require_finite(values, who(reader, tensor));
  return values;
}

std::string first_few(std::vector<std::string> names) {
  const bool more = names.size() > 8;
  if (more) names.resize(8);
  for (std::string& name : names) name = quoted_name(name);
  return join(names, ", ") + (more ? ", …" : "");
}

}  // namespace

Weights read_weights(const std::string& path) {
  const SafetensorsReader reader(path);
  Weights weights;
  for (const Tensor& tensor : reader.tensors()) {
    if (tensor.shape.size() != 2 || tensor.size() == 0) {
      throw DataError(who(reader, tensor) + " has shape " + to_string(tensor.shape) +
                      ", expected [m, n] with m and n at least 1");
    }
    weights.add(tensor.name, finite_matrix(reader, tensor));
  }
  if (weights.size() == 0) throw DataError(path + ": holds no tensor, expected weights");
  return weights;
}

RecordedGradients::RecordedGradients(const std::string& path, const Weights& weights)
    : reader_(path) {
  std::vector<std::string> weight_names;
  for (const auto& [name, value] : weights) weight_names.push_back(name);
  const std::set<std::string> is_weight(weight_names.begin(), weight_names.end());

  std::set<std::string> paired;  // weights with half a pair that can be nothing else
  for (const Tensor& tensor : reader_.tensors()) {
    require_floats(who(reader_, tensor), tensor);
    if (is_weight.contains(tensor.name)) continue;
    const std::string stem = stem_of(tensor.name);
    if (stem.empty() || !is_weight.contains(stem)) {
      throw DataError(who(reader_, tensor) + " belongs to no weight; there are " +
                      first_few(weight_names) +
                      did_you_mean(stem.empty() ? tensor.name : stem, weight_names));
    }
    paired.insert(stem);
  }
  for (const auto& [name, value] : weights) {
    const Tensor* own = paired.contains(stem_of(name)) ? nullptr : reader_.find(name);
    if (!own && !paired.contains(name)) continue;
    names_.push_back(name);
    records_.push_back(paired.contains(name) ? pair_of(name, own) : Record{.dense = own});
    require_shapes(records_.back(), shape_of(value));
  }
  if (names_.empty()) {
    throw DataError(path + ": holds no tensor, expected the gradients of " +
                    first_few(weight_names));
  }
}

RecordedGradients::Record RecordedGradients::pair_of(const std::string& name,
                                                     const Tensor* dense) const {
  const Record record{.delta = reader_.find(name + kDelta), .x = reader_.find(name + kX)};
  if (!record.delta || !record.x) {
    throw DataError(who(reader_, record.delta ? *record.delta : *record.x) +
                    " is half a pair, expected " +
                    quoted_name(name + (record.delta ? kX : kDelta)) + " too");
  }
  if (dense) {
    throw DataError(who(reader_, *dense) + " is there besides " + quoted_name(record.delta->name) +
                    " and " + quoted_name(record.x->name) + ", expected one of the two forms");
  }
  return record;
}

void RecordedGradients::require_shapes(const Record& record, Shape weight) {
  const Extent steps = steps_ > 0 ? exactly(steps_) : Extent{"steps"};
  const Tensor& first = record.dense ? *record.dense : *record.delta;
  if (record.dense) {
    require_extents(who(reader_, first), first,
                    {steps, exactly(weight.rows), exactly(weight.cols)});
  } else {
    require_extents(who(reader_, first), first, {steps, Extent{"N"}, exactly(weight.rows)});
    require_extents(who(reader_, *record.x), *record.x,
                    {exactly(first.shape[0]), exactly(first.shape[1]), exactly(weight.cols)});
  }
  steps_ = first.shape[0];
}

Matrix RecordedGradients::slice(const Tensor& tensor, std::size_t step) const {
  Matrix values = uninitialized({tensor.shape[1], tensor.shape[2]});
  reader_.read(tensor, step * values.size(), values.size(), values.data());
  require_finite(values, who(reader_, tensor) + ", step " + std::to_string(step) + ",");
  return values;
}

Gradient RecordedGradients::read(std::size_t k, std::size_t step) const {
  const Record& record = records_.at(k);
  if (record.dense) return Gradient::dense(slice(*record.dense, step));
  return Gradient::outer(share(slice(*record.delta, step)), share(slice(*record.x, step)));
}

InitialFactors::InitialFactors(const std::string& path) : reader_(path) {}

void InitialFactors::set(const std::string& weight, Projector& projector) {
  bool alive = projector.linear();
  projector.fields([&](std::string_view field, Matrix& value, Role role) {
    const std::string name = weight + "." + std::string(field);
    known_.insert(name);
    if (const Tensor* tensor = reader_.find(name)) {
      if (projector.starts_from_gradient()) {
        throw DataError(who(reader_, *tensor) +
                        " is set, but its projector starts from a gradient");
      }
      const Shape shape = shape_of(value);
      if (tensor->shape != std::vector{shape.rows, shape.cols}) {
        throw DataError(who(reader_, *tensor) + " has shape " + to_string(tensor->shape) +
                        ", expected " + to_string(std::vector{shape.rows, shape.cols}));
      }
      value = finite_matrix(reader_, *tensor);
    }
    alive =
        alive || (role == Role::trained && std::any_of(value.data(), value.data() + value.size(),
                                                       [](Real entry) { return entry != 0; }));
  });
  if (alive || projector.factors().empty()) return;
  throw DataError(reader_.path() + ": every factor of weight " + quoted_name(weight) +
                  " is zero, a saddle that no gradient leaves");
}

void InitialFactors::require_all_known() const {
  if (known_.empty()) {
    throw DataError(reader_.path() + ": no projector in this call keeps factors to be set");
  }
  const std::vector<std::string> names(known_.begin(), known_.end());
  for (const Tensor& tensor : reader_.tensors()) {
    if (known_.contains(tensor.name)) continue;
    throw DataError(who(reader_, tensor) + " is no factor of this call; there are " +
                    first_few(names) + did_you_mean(tensor.name, names));
  }
}

}  // namespace gradview
