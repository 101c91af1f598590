#include "gradview/experiments/stability/growth.hpp"

#include <fmt/format.h>

#include "gradview/core/text.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/lora.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// Small enough that v does not move beside what it is; late: large enough that its motion is all
// that it is. v has entries of order 1/√n, and Adam moves each by the rate.
double rate(const Trial& trial) {
  if (trial.optimizer == "sgd") return 1e-7;
  return trial.late ? 1 : 1e-9;
}

std::string spec(const Trial& trial, std::size_t rank) {
  const std::string start =
      trial.start == Start::zero
          ? ""
          : fmt::format(",init=lora_ga,scale=stable,gamma={}", exact(trial.gamma));
  return fmt::format("lora:rank={},alpha={},scaling={}{}", rank, exact(trial.alpha), trial.scaling,
                     start);
}

std::vector<Case> make_cases() {
  std::vector<Case> all;
  const auto add = [&](const char* scaling, Start start, const char* optimizer, Phase phase,
                       Exponents forward, Exponents backward) {
    all.push_back({scaling, start, optimizer, phase, true, forward});
    all.push_back({scaling, start, optimizer, phase, false, backward});
  };
  for (const auto& [scaling, e] : {std::pair{"standard", -1.0}, std::pair{"rslora", -0.5}}) {
    for (const Phase phase : {Phase::first, Phase::few}) {
      add(scaling, Start::zero, "sgd", phase, {0, 0, 4 * e + 2}, {2, -1, 4 * e + 1});
      add(scaling, Start::zero, "adam", phase, {0, 0, 2 * e + 2}, {2, -1, 2 * e + 1});
    }
    add(scaling, Start::zero, "adam", Phase::late, {0, 2, 2 * e + 2}, {2, 0, 2 * e + 2});
  }
  add("rslora", Start::lora_ga, "sgd", Phase::start, {0, 0, 0}, {1, -1, 0});
  add("rslora", Start::lora_ga, "sgd", Phase::few, {0, 0, 0}, {1, -1, 0});
  add("rslora", Start::lora_ga, "adam", Phase::few, {0, 0, 0}, {1, -1, 0});
  add("rslora", Start::lora_ga, "adam", Phase::late, {0, 2, 1}, {2, 0, 1});
  return all;
}

}  // namespace

const std::vector<Case>& stability_cases() {
  static const std::vector<Case> all = make_cases();
  return all;
}

std::string name(Phase phase) {
  switch (phase) {
    case Phase::start:
      return "at its start";
    case Phase::first:
      return "first step";
    case Phase::few:
      return "few small steps";
    case Phase::late:
      return "few large steps";
  }
  return "";
}

std::string name(const Case& c) {
  return fmt::format("{}{} {}, {}, {}", c.start == Start::lora_ga ? "lora_ga " : "", c.scaling,
                     c.optimizer, name(c.phase), c.forward ? "output" : "input gradient");
}

std::vector<Energies> run_trial(const Trial& trial, Sizes sizes, std::uint64_t seed) {
  const std::size_t m = sizes.m, n = sizes.n, r = sizes.r;
  const auto draw = [&](const char* what, std::size_t rows, std::size_t width) {
    return normal({rows, width}, 1,
                  Stream(seed, Purpose::data, fmt::format("{} {} {} {}", what, m, n, r)));
  };
  const SharedMatrix x = share(draw("x", 1, n)), delta = share(draw("delta", 1, m));
  Matrix w = zeros({m, n});
  Optimizer optimizer({.spec = make_optimizer_spec({trial.optimizer, {}}),
                       .lr = rate(trial),
                       .steps = trial.steps,
                       .seed = seed});
  const std::string parameter = fmt::format("w {} {} {}", m, n, r);
  optimizer.add(parameter, w,
                make_projector(parse_spec(spec(trial, r)),
                               Site{.name = parameter, .weight = w, .seed = seed}));
  if (trial.start == Start::lora_ga) {  // singular vectors that know nothing of x and δ
    optimizer.prepare(parameter, Gradient::outer(share(draw("many deltas", 4 * r, m)),
                                                 share(draw("many inputs", 4 * r, n))));
  }
  const double s = lora_scale(
      trial.scaling == "standard" ? LoraScaling::standard : LoraScaling::rslora, trial.alpha, r);
  const auto measured = [&]() -> Energies {
    const Factors theta = optimizer.projector(parameter).factors();  // u, v
    const Matrix y = matmul_nt(matmul_nt(*x, theta[1]), theta[0]);   // x vᵀ uᵀ
    const Matrix back = matmul(matmul(*delta, theta[0]), theta[1]);  // δ u v
    return {s * s * squared_norm(y) / static_cast<double>(m),
            s * s * squared_norm(back) / static_cast<double>(n)};
  };
  const Gradient g = Gradient::outer(delta, x);
  std::vector<Energies> out;
  if (trial.start == Start::lora_ga) {  // the factors are chosen in the first collect
    optimizer.collect(parameter, g);
  }
  out.push_back(measured());
  for (std::size_t step = 1; step <= trial.steps; ++step) {
    if (step > 1 || trial.start != Start::lora_ga) optimizer.collect(parameter, g);
    optimizer.step();
    if (step == 1) out.push_back(measured());
  }
  out.push_back(measured());
  return out;
}

}  // namespace gradview
