// Weights: the named matrices that a model holds, in a fixed order. Vectors (biases) are 1 x n. Those
// of linear layers may be kept in 4 bits, and an adapter may stay beside one (module.hpp).
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/quantised.hpp"

namespace gradview {

class Projector;

struct Beside {  // what a layer must know of the adapter of its weight
  const Projector* projector = nullptr;
  double dropout = 0;  // p, of the adapter's input
};

class Weights {
 public:
  Weights() = default;
  Weights(std::initializer_list<std::pair<std::string, Matrix>> all) : all_(all) {}
  void add(std::string name, Matrix value) { all_.emplace_back(std::move(name), std::move(value)); }
  Matrix& operator[](const std::string& name) {
    return const_cast<Matrix&>(std::as_const(*this)[name]);
  }
  const Matrix& operator[](const std::string& name) const {
    for (const auto& [key, value] : all_) {
      if (key == name) return value;
    }
    throw std::invalid_argument(
        "Weights: " + (quantised(name) ? "'" + name + "' is kept in 4 bits, for linear layers only"
                                       : "there is no '" + name + "'"));
  }
  // From now on in 4 bits; a copy of these weights shares them.
  void quantise(const std::string& name, FourBit type) {
    auto made = std::make_shared<const QuantisedMatrix>((*this)[name], type);
    std::erase_if(all_, [&](const auto& entry) { return entry.first == name; });
    quantised_.emplace_back(name, std::move(made));
  }
  const QuantisedMatrix* quantised(const std::string& name) const {  // null where it is a Matrix
    for (const auto& [key, value] : quantised_) {
      if (key == name) return value.get();
    }
    return nullptr;
  }
  const auto& all_quantised() const { return quantised_; }  // the others are begin() … end()
  // The layer of this weight sees the projector's ΔW too, where it is not (only) inside W. The
  // projector must outlive these weights and their copies.
  void put_beside(const std::string& name, const Beside& adapter) { beside_[name] = adapter; }
  Beside beside(const std::string& name) const {
    const auto found = beside_.find(name);
    return found == beside_.end() ? Beside{} : found->second;
  }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }
  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }
  std::size_t size() const { return all_.size(); }

 private:
  std::vector<std::pair<std::string, Matrix>> all_;
  std::vector<std::pair<std::string, std::shared_ptr<const QuantisedMatrix>>> quantised_;
  std::map<std::string, Beside> beside_;
};

// Takes the gradient of one named weight as soon as it is known; δ and x may go when it returns.
using Collect = std::function<void(const std::string& name, const Gradient& g)>;

}  // namespace gradview
