#include "gradview/experiments/expressivity/targets.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// Singular values; none for the bias-like change.
std::vector<double> spectrum(const std::string& kind, std::size_t most) {
  const auto all = [&](std::size_t count, double power) {
    std::vector<double> values;
    for (std::size_t i = 1; i <= std::min(count, most); ++i) {
      values.push_back(std::pow(static_cast<double>(i), -power));
    }
    return values;
  };
  if (kind == "rank-1") return all(1, 0);
  if (kind == "rank-4") return all(4, 0);
  if (kind == "flat") return all(most, 0);
  if (kind == "power-0.5") return all(most, 0.5);
  if (kind == "power-1") return all(most, 1);
  if (kind == "power-2") return all(most, 2);
  throw std::invalid_argument("no target '" + kind + "'");
}

}  // namespace

const std::vector<TargetKind>& target_kinds() {
  static const std::vector<TargetKind> kinds{{"bias-like", "x 1ᵀ + 1 yᵀ"},
                                             {"rank-1", "one singular value"},
                                             {"rank-4", "four equal ones"},
                                             {"power-2", "σ_i = 1/i²"},
                                             {"power-1", "σ_i = 1/i"},
                                             {"power-0.5", "σ_i = 1/√i"},
                                             {"flat", "all singular values equal"}};
  return kinds;
}

Matrix drawn_change(const std::string& kind, Shape shape, std::uint64_t seed) {
  const auto [m, n] = shape;
  const auto stream = [&](const char* side) { return Stream(seed, Purpose::test, kind + side); };
  Matrix d = zeros(shape);
  if (kind == "bias-like") {
    const double rows = 1 / std::sqrt(static_cast<double>(m));
    const double cols = 1 / std::sqrt(static_cast<double>(n));
    add_unfolded(d, normal({m, 1}, cols, stream("left")), normal({1, n}, rows, stream("right")));
  } else {
    const std::vector<double> values = spectrum(kind, std::min(m, n));
    const Matrix left = haar_rows(values.size(), m, stream("left"));
    Matrix right = haar_rows(values.size(), n, stream("right"));
    for (std::size_t k = 0; k < values.size(); ++k) {
      for (std::size_t j = 0; j < n; ++j) right(k, j) *= static_cast<Real>(values[k]);
    }
    d = matmul_tn(left, right);
  }
  scale(d, 1 / std::sqrt(squared_norm(d)));
  return d;
}

FineTune fine_tune(const Task& task, std::uint64_t seed, const FineTuneSettings& settings) {
  Weights weights = task.start();
  FineTune out{{}, task.evaluate(weights, Split::validation).accuracy, 0};
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam")),
                       .lr = settings.lr,
                       .schedule = make_schedule("cosine"),
                       .steps = settings.steps,
                       .seed = seed});
  std::map<std::string, Matrix> squares;
  std::size_t tokens = 0;
  for (auto& [name, value] : weights) {
    optimizer.add(name, value, make_projector({"full", {}}, Site{name, value}));
    const std::size_t n = value.shape()[1];
    if (value.shape()[0] > 1) squares.emplace(name, zeros({n, n}));
  }
  Training training;
  for (const auto& [name, value] : weights) training.trained.insert(name);
  BatchOrder moments(seed, task.examples(), "moments");
  while (tokens < std::min<std::size_t>(task.examples(), 5000)) {
    task.loss_and_gradients(weights, moments.next(settings.batch_size), training,
                            [&](const std::string& name, const Gradient& g) {
                              const auto found = squares.find(name);
                              if (found != squares.end()) axpy(found->second, 1, g.input_squares());
                            });
    tokens += settings.batch_size;
  }
  BatchOrder order(seed, task.examples());
  for (std::size_t step = 0; step < settings.steps; ++step) {
    throw_if_stop_requested();
    task.loss_and_gradients(
        weights, order.next(settings.batch_size), training,
        [&](const std::string& name, const Gradient& g) { optimizer.collect(name, g); });
    optimizer.step();
  }
  const Score score = task.evaluate(weights, Split::validation);
  if (!std::isfinite(score.loss)) throw DivergedError("the full fine-tune diverged; lower --lr");
  out.accuracy = score.accuracy;
  for (auto& [name, sigma] : squares) {
    scale(sigma, 1 / static_cast<double>(tokens));
    out.changes.push_back({name, difference(weights[name], task.start()[name]), std::move(sigma)});
  }
  return out;
}

}  // namespace gradview
