#include "gradview/models/linear_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/activation.hpp"

namespace gradview {
namespace {

constexpr const char* kLinears[] = {"q", "k", "v", "o", "up", "down"};
constexpr const char* kAttention[] = {"v", "k", "q"};  // as they are collected

}  // namespace

std::string LinearBlocks::weight_name(std::size_t block, std::string_view linear) const {
  return "block" + std::to_string(block + 1) + "." + std::string(linear) + ".weight";
}

std::vector<std::string> LinearBlocks::weight_names() const {
  std::vector<std::string> names;
  for (std::size_t block = 0; block < layers; ++block) {
    for (const char* linear : kLinears) names.push_back(weight_name(block, linear));
  }
  return names;
}

Shape LinearBlocks::shape(std::size_t weight) const {
  const std::string_view linear = kLinears[weight % std::size(kLinears)];
  return {linear == "up" ? hidden : width, linear == "down" ? hidden : width};
}

Weights LinearBlocks::initial(std::uint64_t seed) const {
  Weights weights;
  for (const std::string& name : weight_names()) {
    const Shape shape = this->shape(weights.size());
    const double bound = 1 / std::sqrt(static_cast<double>(shape.cols));
    weights.add(name, uniform(shape, -bound, bound, Stream(seed, Purpose::model, name)));
  }
  return weights;
}

LinearBlocks::Pass LinearBlocks::forward(const Weights& weights, Matrix x) const {
  Pass pass;
  for (std::size_t block = 0; block < layers; ++block) {
    const auto linear = [&](const char* which, const Matrix& in) {
      return matmul_nt(in, weights[weight_name(block, which)], compute);
    };
    Pass::Block kept;
    kept.x = share(std::move(x));
    Matrix a = linear("q", *kept.x);
    axpy(a, 1, linear("k", *kept.x));
    axpy(a, 1, linear("v", *kept.x));
    scale(a, 1.0 / 3);
    kept.a = share(std::move(a));
    Matrix z = linear("o", *kept.a);
    axpy(z, 1, *kept.x);
    kept.z = share(std::move(z));
    Matrix f = linear("up", *kept.z);
    activate(Activation::relu, f);
    kept.f = share(std::move(f));
    x = linear("down", *kept.f);
    axpy(x, 1, *kept.z);
    pass.blocks.push_back(std::move(kept));
  }
  pass.outputs = std::move(x);
  return pass;
}

Matrix LinearBlocks::outputs(const Weights& weights, const Matrix& x) const {
  Matrix y = x;
  for (std::size_t block = 0; block < layers; ++block) {
    const auto linear = [&](const char* which, const Matrix& in) {
      return matmul_nt(in, weights[weight_name(block, which)], compute);
    };
    Matrix a = linear("q", y);
    axpy(a, 1, linear("k", y));
    axpy(a, 1, linear("v", y));
    scale(a, 1.0 / 3);
    axpy(y, 1, linear("o", a));
    Matrix f = linear("up", y);
    activate(Activation::relu, f);
    axpy(y, 1, linear("down", f));
  }
  return y;
}

Matrix LinearBlocks::backward(const Weights& weights, Pass pass, Matrix delta,
                              const Collect& collect, std::string_view lowest) const {
  const std::vector<std::string> names = weight_names();
  if (!lowest.empty() && std::find(names.begin(), names.end(), lowest) == names.end()) {
    throw std::invalid_argument("LinearBlocks::backward: there is no '" + std::string(lowest) +
                                "'");
  }
  pass.outputs = Matrix();
  while (!pass.blocks.empty()) {
    Pass::Block block = std::move(pass.blocks.back());
    pass.blocks.pop_back();
    const auto name = [&, at = pass.blocks.size()](const char* linear) {
      return weight_name(at, linear);
    };
    const auto done = [&](const char* linear, const SharedMatrix& d, SharedMatrix in) {
      collect(name(linear), Gradient::outer(d, std::move(in)));
      return name(linear) == lowest;
    };
    SharedMatrix dy = share(std::move(delta));
    if (done("down", dy, block.f)) return {};
    Matrix df = matmul(*dy, weights[name("down")], compute);
    times_derivative(Activation::relu, *block.f, df);  // relu(z) > 0 where z > 0
    block.f.reset();
    SharedMatrix dup = share(std::move(df));
    if (done("up", dup, std::move(block.z))) return {};
    Matrix dz = *dy;
    add_matmul(dz, 1, *dup, weights[name("up")], compute);
    dy.reset();
    dup.reset();
    const SharedMatrix dout = share(std::move(dz));
    if (done("o", dout, std::move(block.a))) return {};
    Matrix da = matmul(*dout, weights[name("o")], compute);
    scale(da, 1.0 / 3);
    const SharedMatrix dqkv = share(std::move(da));
    for (const char* linear : kAttention) {
      if (done(linear, dqkv, block.x)) return {};
    }
    block.x.reset();
    delta = *dout;
    for (const char* linear : kAttention)
      add_matmul(delta, 1, *dqkv, weights[name(linear)], compute);
  }
  return delta;
}

}  // namespace gradview
