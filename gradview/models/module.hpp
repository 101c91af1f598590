// Module: what the layers of a transformer have in common: the weights by their names in a checkpoint,
// which of them are trained, and linear layers that keep and compute no more than those need.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gradview/core/bf16.hpp"
#include "gradview/models/dropout.hpp"
#include "gradview/models/weights.hpp"

namespace gradview {

// How a checkpoint stores a weight; ours are m x n = outputs x inputs always, vectors 1 x n.
enum class Stored { matrix, transposed, vector };

struct WeightSpec {
  std::string name;
  Shape shape;  // ours
  Stored stored = Stored::matrix;
  std::size_t stage = 0;  // height above the inputs: the backward pass walks down
};

using Names = std::set<std::string>;

struct Training {
  Names trained;                   // the weights whose gradients are collected
  std::optional<Dropout> dropout;  // none: everything is kept

  const Dropout* dropout_or_null() const { return dropout ? &*dropout : nullptr; }
};

// The lowest stage of a trained weight; SIZE_MAX where none is. Throws std::invalid_argument where a
// trained name is not among the specs.
std::size_t lowest_stage(const std::vector<WeightSpec>& specs, const Names& trained);

// What is known only to the whole backward pass.
struct Backward {
  const Weights& weights;
  const Names& trained;
  const Collect& collect;
  Compute compute = Compute::real;
};

// A matrix that is made when it is first asked for.
class Lazy {
 public:
  explicit Lazy(std::function<Matrix()> make) : make_(std::move(make)) {}
  explicit Lazy(SharedMatrix made) : made_(std::move(made)) {}
  const SharedMatrix& get() {
    if (!made_) made_ = share(make_());
    return made_;
  }

 private:
  std::function<Matrix()> make_;
  SharedMatrix made_;
};

struct Linear {  // y = x Wᵀ + b
  std::string module;
  Shape shape;  // m x n
  bool bias = true;
  Stored stored = Stored::matrix;

  std::string weight() const { return module + ".weight"; }
  std::string bias_name() const { return module + ".bias"; }
  void declare(std::vector<WeightSpec>& to, std::size_t stage) const;

  Matrix forward(const Weights& weights, const Matrix& x, Compute in) const;
  // to += dropout(y); `first`: the number of the first row.
  void add_forward(const Weights& weights, const Matrix& x, Compute in, const DropoutMask& mask,
                   std::size_t first, Matrix& to) const;
  bool weight_trained(const Names& trained) const { return trained.contains(weight()); }
  bool any_trained(const Names& trained) const;
  void collect(const Backward& with, const SharedMatrix& delta, Lazy& x) const;
  Matrix input_gradient(const Backward& with, const Matrix& delta) const;  // δ W
  void add_input_gradient(const Backward& with, const Matrix& delta,
                          Matrix& to) const;  // to: empty for 0
};

// [x W₁ᵀ + b₁, x W₂ᵀ + b₂, …] in one product.
Matrix joint_forward(const std::vector<Linear>& all, const Weights& weights, const Matrix& x,
                     Compute in);

Matrix gather_rows(const Matrix& from, const std::vector<std::size_t>& rows);
void scatter_add_rows(Matrix& to, const std::vector<std::size_t>& rows, const Matrix& from);

}  // namespace gradview
