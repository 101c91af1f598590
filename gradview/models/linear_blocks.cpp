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
constexpr std::size_t kQ = 0, kK = 1, kV = 2, kO = 3, kUp = 4, kDown = 5;

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

// Sums begin as what the products are added to: BLAS has no pass of its own for that.
LinearBlocks::Pass LinearBlocks::forward(const Weights& weights, Matrix x) const {
  Pass pass;
  for (std::size_t block = 0; block < layers; ++block) {
    Pass::Block kept;
    for (const char* linear : kLinears) {
      kept.weights.emplace_back(weights[weight_name(block, linear)], compute);
    }
    const auto& w = kept.weights;
    kept.x = share(std::move(x));
    const Operand in(*kept.x, compute);
    Matrix a = matmul_nt(in, w[kQ]);
    add_matmul_nt(a, 1, in, w[kK]);
    add_matmul_nt(a, 1, in, w[kV]);
    scale(a, 1.0 / 3);
    Matrix z = copy_of(*kept.x);
    add_matmul_nt(z, 1, {a, compute}, w[kO]);
    kept.a = share(std::move(a));
    Matrix f = matmul_nt({z, compute}, w[kUp]);
    activate(Activation::relu, f);
    x = copy_of(z);
    add_matmul_nt(x, 1, {f, compute}, w[kDown]);
    kept.z = share(std::move(z));
    kept.f = share(std::move(f));
    pass.blocks.push_back(std::move(kept));
  }
  pass.outputs = std::move(x);
  return pass;
}

Matrix LinearBlocks::outputs(const Weights& weights, const Matrix& x) const {
  Matrix y = x;
  for (std::size_t block = 0; block < layers; ++block) {
    const auto w = [&](std::size_t linear) {
      return Operand(weights[weight_name(block, kLinears[linear])], compute);
    };
    Matrix a;
    {
      const Operand in(y, compute);
      a = matmul_nt(in, w(kQ));
      add_matmul_nt(a, 1, in, w(kK));
      add_matmul_nt(a, 1, in, w(kV));
    }
    scale(a, 1.0 / 3);
    add_matmul_nt(y, 1, {a, compute}, w(kO));
    Matrix f = matmul_nt({y, compute}, w(kUp));
    activate(Activation::relu, f);
    add_matmul_nt(y, 1, {f, compute}, w(kDown));
  }
  return y;
}

Matrix LinearBlocks::backward(Pass pass, Matrix delta, const Collect& collect,
                              std::string_view lowest) const {
  const std::vector<std::string> names = weight_names();
  if (!lowest.empty() && std::find(names.begin(), names.end(), lowest) == names.end()) {
    throw std::invalid_argument("LinearBlocks::backward: there is no '" + std::string(lowest) +
                                "'");
  }
  pass.outputs = Matrix();
  while (!pass.blocks.empty()) {
    Pass::Block block = std::move(pass.blocks.back());
    pass.blocks.pop_back();
    const auto& w = block.weights;
    const auto done = [&, at = pass.blocks.size()](std::size_t linear, const SharedMatrix& d,
                                                   SharedMatrix in) {
      const std::string name = weight_name(at, kLinears[linear]);
      collect(name, Gradient::outer(d, std::move(in)));
      return name == lowest;
    };
    SharedMatrix dy = share(std::move(delta));
    if (done(kDown, dy, block.f)) return {};
    Matrix df = matmul({*dy, compute}, w[kDown]);
    times_derivative(Activation::relu, *block.f, df);  // relu(z) > 0 where z > 0
    block.f.reset();
    SharedMatrix dup = share(std::move(df));
    if (done(kUp, dup, std::move(block.z))) return {};
    Matrix dz = copy_of(*dy);
    add_matmul(dz, 1, {*dup, compute}, w[kUp]);
    dy.reset();
    dup.reset();
    const SharedMatrix dout = share(std::move(dz));
    if (done(kO, dout, std::move(block.a))) return {};
    Matrix da = matmul({*dout, compute}, w[kO]);
    scale(da, 1.0 / 3);
    const SharedMatrix dqkv = share(std::move(da));
    for (const std::size_t linear : {kV, kK, kQ}) {
      if (done(linear, dqkv, block.x)) return {};
    }
    block.x.reset();
    delta = copy_of(*dout);
    const Operand d(*dqkv, compute);
    for (const std::size_t linear : {kV, kK, kQ}) add_matmul(delta, 1, d, w[linear]);
  }
  return delta;
}

}  // namespace gradview
