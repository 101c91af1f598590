#include "gradview/experiments/expressivity/nulls.hpp"

#include <algorithm>
#include <cmath>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/models/mlp.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kTokens = 256, kInputs = 48, kHidden = 64, kClasses = 10;

void normalise_tokens(Matrix& x) {  // each row to mean 0 and variance 1, as a layer norm with β = 0
  const auto [tokens, n] = shape_of(x);
  for (std::size_t t = 0; t < tokens; ++t) {
    double mean = 0, squares = 0;
    for (std::size_t j = 0; j < n; ++j) mean += x(t, j) / static_cast<double>(n);
    for (std::size_t j = 0; j < n; ++j) {
      x(t, j) = static_cast<Real>(x(t, j) - mean);
      squares += x(t, j) * x(t, j) / static_cast<double>(n);
    }
    for (std::size_t j = 0; j < n; ++j) x(t, j) /= static_cast<Real>(std::sqrt(squares));
  }
}

struct Frames {
  const char* spec;
  bool of_ones;
};
constexpr Frames kFrames[] = {{"additive", true},
                              {"additive:rank=4", true},
                              {"random:rank=1,family=rademacher,refresh_every=0", false},
                              {"random:rank=4,family=rademacher,refresh_every=0", false}};

}  // namespace

std::vector<Null> measure_nulls(std::uint64_t seed) {
  const Mlp model{{kInputs, kHidden, kClasses}};
  const Weights weights = model.initial(seed);
  std::vector<std::uint8_t> labels;
  Stream rng(seed, Purpose::test, "labels");
  for (std::size_t t = 0; t < kTokens; ++t) {
    labels.push_back(static_cast<std::uint8_t>(rng.below(kClasses)));
  }
  std::vector<Null> out;
  for (const bool normalised : {false, true}) {
    Matrix x = uniform({kTokens, kInputs}, 0, 1, Stream(seed, Purpose::test, "inputs"));
    if (normalised) normalise_tokens(x);
    const Mlp::Pass pass = model.forward(weights, std::move(x));
    Matrix delta;
    softmax_cross_entropy(pass.outputs, labels, {}, &delta);
    model.backward(pass, std::move(delta), [&](const std::string& name, const Gradient& g) {
      const Matrix& weight = weights[name];
      const bool logits = name == model.weight_name(1);
      if (weight.shape()[0] == 1 || (logits && normalised)) return;
      const double norm = std::sqrt(squared_norm(g));
      for (const Frames& frames : kFrames) {
        const auto projector = make_projector(parse_spec(frames.spec),
                                              Site{.name = name, .weight = weight, .seed = seed});
        const Factors parts = projector->project(g, weight);  // G bᵀ, a G
        for (std::size_t f = 0; f < 2; ++f) {
          const std::vector<double> singular = svd(parts[f]).singular;
          const auto alive = std::count_if(singular.begin(), singular.end(),
                                           [&](double s) { return s > 1e-12 * norm; });
          const bool blind = frames.of_ones && (f == 0 ? normalised : logits);
          out.push_back({logits ? "logits" : "hidden layer",
                         logits       ? "hidden units"
                         : normalised ? "sum to zero"
                                      : "uniform in (0, 1)",
                         frames.spec, f == 0 ? "u" : "v", singular.size(),
                         singular.size() - static_cast<std::size_t>(alive), blind ? 1U : 0U,
                         singular.back() / norm});
        }
      }
    });
  }
  return out;
}

}  // namespace gradview
