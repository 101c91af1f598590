#include "gradview/experiments/layer_memory.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "gradview/core/rng.hpp"
#include "gradview/models/module.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return 1024 * std::stod(line.substr(key.size() + 1));
  }
  return kNaN;
}

bool forget_peak() {  // VmHWM begins anew
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;
  return static_cast<bool>(clear);
}

LayerMemory measure(Shape shape, std::optional<FourBit> type) {
  constexpr std::size_t kTokens = 64;
  const Linear linear{"layer", shape, false};
  const std::string name = linear.weight();
  Weights weights;
  weights.add(name, uniform(shape, -1, 1, Stream(1, Purpose::model)));
  if (type) weights.quantise(name, *type);
  const QuantisedMatrix* quantised = weights.quantised(name);
  const Matrix none = zeros({0, 0});
  const Matrix& w = quantised ? none : weights[name];
  const auto projector =
      make_projector({"lora", {}}, {.name = name, .weight = w, .seed = 1, .quantised = quantised});
  weights.put_beside(name, {projector.get(), 0});
  const SharedMatrix x = share(uniform({kTokens, shape.cols}, -1, 1, Stream(1, Purpose::data)));
  const SharedMatrix d = share(uniform({kTokens, shape.rows}, -1, 1, Stream(2, Purpose::data)));
  matmul_nt(*x, *x);  // BLAS makes its buffers
  const Names trained{name};
  const Collect collect = [&](const std::string&, const Gradient& g) { projector->project(g, w); };
  const bool counts = forget_peak();
  const double before = status_bytes("VmRSS");
  {
    const Matrix y = linear.forward(weights, *x, {});
    Lazy input(x);
    const Backward with{weights, trained, collect};
    linear.collect(with, d, input, 0);
    const Matrix dx = linear.input_gradient(with, *d, 0);
  }
  const double held = quantised ? static_cast<double>(quantised->bytes())
                                : static_cast<double>(shape.size() * sizeof(Real));
  return {held, counts ? status_bytes("VmHWM") - before : kNaN};
}

}  // namespace

LayerMemory layer_memory(Shape shape, std::optional<FourBit> type) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("layer_memory: no pipe");
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("layer_memory: no process of its own");
  if (child == 0) {
    LayerMemory seen{kNaN, kNaN};
    try {
      seen = measure(shape, type);
    } catch (...) {
    }
    const bool told = write(ends[1], &seen, sizeof seen) == sizeof seen;
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  LayerMemory seen{kNaN, kNaN};
  const bool told = read(ends[0], &seen, sizeof seen) == sizeof seen;
  close(ends[0]);
  waitpid(child, nullptr, 0);
  if (!told) throw std::runtime_error("layer_memory: the process told nothing");
  return seen;
}

}  // namespace gradview
