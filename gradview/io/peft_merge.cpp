// What an adapter makes of the weights.
#include <cmath>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/io/peft.hpp"

namespace gradview {
namespace {

const Matrix& factor(const Adapter::Module& module, const std::string& name) {
  const auto found = module.factors.find(name);
  if (found != module.factors.end()) return found->second;
  throw std::invalid_argument("adapter: " + module.path + " has no factor '" + name + "'");
}

Matrix product(const Adapter::Module& module, const std::string& a, const std::string& b) {
  return matmul(factor(module, a), factor(module, b));
}

Matrix side(const Adapter::Module& module, const std::string& name) {  // of a Kronecker product
  if (module.factors.contains(name)) return module.factors.at(name);
  return product(module, name + "_a", name + "_b");
}

void rescale_rows(Matrix& w, const Matrix& magnitude) {
  const auto [m, n] = shape_of(w);
  require_shape("adapter", "the magnitude", shape_of(magnitude), {m, 1});
  for (std::size_t i = 0; i < m; ++i) {
    double squares = 0;
    for (std::size_t j = 0; j < n; ++j) squares += static_cast<double>(w(i, j)) * w(i, j);
    const auto s = static_cast<Real>(magnitude(i, 0) / std::sqrt(squares));
    for (std::size_t j = 0; j < n; ++j) w(i, j) *= s;
  }
}

}  // namespace

double Adapter::scale(const Module& module) const {
  const auto r = static_cast<double>(module.rank);
  if (method == "vera") return 1;
  if (method == "adalora") return module.alpha / (r + 1e-5);
  return module.alpha / (rslora ? std::sqrt(r) : r);
}

void Adapter::set_scale(Module& module, double scale) const {
  module.alpha = 1;
  if (method != "vera") module.alpha = scale / this->scale(module);
}

Adapter::Module lora_module(std::string path, LowRank product, bool rslora) {
  Adapter::Module module{std::move(path), {}, product.v.shape()[0], 0};
  const auto r = static_cast<double>(module.rank);
  module.alpha = product.s * (rslora ? std::sqrt(r) : r);
  module.factors = {{"u", std::move(product.u)}, {"v", std::move(product.v)}};
  return module;
}

void merge(const Adapter& adapter, Weights& weights, const std::string& tied) {
  for (const auto* tensors : {&adapter.saved, &adapter.biases}) {
    for (const auto& [name, value] : *tensors) {
      require_shape("adapter", name.c_str(), shape_of(value), shape_of(weights[name]));
      weights[name] = value;
    }
  }
  for (const Adapter::Module& module : adapter.modules) {
    if (module.path + ".weight" == tied) {
      throw std::invalid_argument("adapter: " + tied +
                                  " is the head as well; merging would change both");
    }
    Matrix& w = weights[module.path + ".weight"];
    const double s = adapter.scale(module);
    if (adapter.method == "lora" || adapter.method == "dora") {
      add_matmul(w, s, factor(module, "u"), factor(module, "v"));
      if (adapter.method == "dora") rescale_rows(w, factor(module, "magnitude"));
    } else if (adapter.method == "adalora") {
      Matrix v = factor(module, "v");
      const Matrix& lambda = factor(module, "lambda");
      require_shape("adapter", "λ", shape_of(lambda), {v.shape()[0], 1});
      for (std::size_t k = 0; k < v.shape()[0]; ++k) {
        for (std::size_t j = 0; j < v.shape()[1]; ++j) v(k, j) *= lambda(k, 0);
      }
      add_matmul(w, s, factor(module, "u"), v);
    } else if (adapter.method == "loha") {
      Matrix first = product(module, "u1", "v1");
      const Matrix second = product(module, "u2", "v2");
      require_shape("adapter", "u2 v2", shape_of(second), shape_of(first));
      for (std::size_t i = 0; i < first.size(); ++i) first.data()[i] *= second.data()[i];
      axpy(w, s, first);
    } else if (adapter.method == "lokr") {
      add_kronecker(w, s, side(module, "w1"), side(module, "w2"));
    } else if (adapter.method == "vera") {
      Matrix u = factor(module, "u");
      const Matrix &b = factor(module, "b"), &d = factor(module, "d");
      require_shape("adapter", "b", shape_of(b), {u.shape()[0], 1});
      require_shape("adapter", "d", shape_of(d), {u.shape()[1], 1});
      for (std::size_t i = 0; i < u.shape()[0]; ++i) {
        for (std::size_t k = 0; k < u.shape()[1]; ++k) u(i, k) *= b(i, 0) * d(k, 0);
      }
      add_matmul(w, 1, u, factor(module, "v"));
    } else {
      throw std::invalid_argument("adapter: no method '" + adapter.method +
                                  "'; there are lora, dora, adalora, loha, lokr, vera");
    }
  }
}

}  // namespace gradview
