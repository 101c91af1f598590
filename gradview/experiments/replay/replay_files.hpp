// What replay reads: weights, recorded gradients, initial factors. DataError on all that does not
// fit.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/io/safetensors.hpp"
#include "gradview/models/weights.hpp"
#include "gradview/projections/projector.hpp"

namespace gradview {

Weights read_weights(const std::string& path);  // every tensor, each m x n; in order of name

// Per weight NAME a tensor NAME [steps, m, n], or the pair NAME.delta [steps, N, m] and NAME.x
// [steps, N, n], G = δᵀ x. A weight may itself be called NAME.x or NAME.delta: a tensor of its name
// is half of a pair where the other half is there and no weight is called like that one.
class RecordedGradients {
 public:
  RecordedGradients(const std::string& path, const Weights& weights);

  std::size_t steps() const { return steps_; }
  const std::vector<std::string>& names() const { return names_; }  // in the order of the weights

  // Of names()[k]; only this step is read. DataError where it is not finite.
  Gradient read(std::size_t k, std::size_t step) const;

 private:
  struct Record {
    const Tensor *dense = nullptr, *delta = nullptr, *x = nullptr;
  };
  Record pair_of(const std::string& name, const Tensor* dense) const;
  void require_shapes(const Record& record, Shape weight);
  Matrix slice(const Tensor& tensor, std::size_t step) const;

  SafetensorsReader reader_;
  std::vector<std::string> names_;
  std::vector<Record> records_;
  std::size_t steps_ = 0;
};

// Initial values of projectors' fields, trained or frozen, each under NAME.FIELD.
class InitialFactors {
 public:
  explicit InitialFactors(const std::string& path);

  // Replaces those fields of a projector on `weight` that the file has.
  void set(const std::string& weight, Projector& projector);
  // Where the file has a name that no set() knew.
  void require_all_known() const;

 private:
  SafetensorsReader reader_;
  std::set<std::string> known_;
};

}  // namespace gradview
