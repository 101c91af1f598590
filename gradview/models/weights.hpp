// Weights: the named matrices that a model holds, in a fixed order. Vectors (biases) are 1 x n.
#pragma once

#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradview/core/gradient.hpp"

namespace gradview {

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
    throw std::invalid_argument("Weights: there is no '" + name + "'");
  }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }
  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }
  std::size_t size() const { return all_.size(); }

 private:
  std::vector<std::pair<std::string, Matrix>> all_;
};

// Takes the gradient of one named weight as soon as it is known; δ and x may go when it returns.
using Collect = std::function<void(const std::string& name, const Gradient& g)>;

}  // namespace gradview
