// MiniLM-L6 as transformers computes it (tests/golden/minilm.py): logits and loss, and of every
// gradient its norm and one number that all its entries go into. In double to 1e-10, in float to 2e-5.
// Skipped where scripts/fetch-minilm has not put the checkpoint (in GRADVIEW_MINILM, or its default).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>

#include "gradview/core/linalg.hpp"
#include "gradview/io/hf.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {
namespace {

constexpr double kTolerance = sizeof(Real) == 8 ? 1e-10 : 2e-5;

std::string checkpoint() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  if (!variable("GRADVIEW_MINILM").empty()) return variable("GRADVIEW_MINILM");
  const std::string cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? variable("HOME") + "/.cache" : cache) + "/gradview/minilm-l6";
}

Matrix summary(const Matrix& g) {
  const auto [m, n] = shape_of(g);
  Matrix u = zeros({m, 1}), v = zeros({n, 1});
  for (std::size_t i = 0; i < m; ++i) u(i, 0) = static_cast<Real>(std::cos(1.0 + double(i)));
  for (std::size_t j = 0; j < n; ++j) v(j, 0) = static_cast<Real>(std::sin(2.0 + double(j)));
  const double size = std::sqrt(squared_norm(u) * squared_norm(v));
  return matrix({{std::sqrt(squared_norm(g)), dot(u, matmul(g, v)) / size}});
}

TEST(MiniLm, HasTheNumbersOfTransformers) {
  const std::string folder = checkpoint();
  if (!std::filesystem::exists(folder + "/config.json")) GTEST_SKIP() << folder << " is not there";
  const SafetensorsReader file(GRADVIEW_GOLDEN_DIR "/minilm.safetensors");
  const auto tensor = [&](const std::string& name) { return file.matrix(*file.find(name)); };
  const Matrix ids = tensor("ids"), mask = tensor("mask"), labels = tensor("labels");
  const HfFolder hf(folder);
  for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
    const std::string name = pooling == Pooling::cls ? "cls" : "mean";
    const Classifier model = hf.classifier(pooling, 5);
    Weights weights = hf.read(model.weights());
    weights["classifier.weight"] = tensor("head");
    const Tokens tokens = pack(std::vector<std::int32_t>(ids.begin(), ids.end()),
                               std::vector<std::uint8_t>(mask.begin(), mask.end()), ids.shape()[1],
                               pooling == Pooling::cls);
    const Matrix logits = model.logits(weights, tokens), expected = tensor(name + ".logits");
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(logits.data()[i], expected.data()[i], kTolerance);
    }
    Training training;
    for (const WeightSpec& spec : model.weights()) training.trained.insert(spec.name);
    double worst = 0;
    std::size_t count = 0;
    const Collect compare = [&](const std::string& weight, const Gradient& g) {
      const Matrix got = summary(g.materialize()), want = tensor(name + ".g." + weight);
      // The bias of the keys has no gradient but what rounding makes of it.
      const double scale = want(0, 0) > 1e-12 ? static_cast<double>(want(0, 0)) : 1;
      for (const std::size_t i : {0, 1}) {
        const double off = std::abs(static_cast<double>(got(0, i)) - want(0, i)) / scale;
        EXPECT_LE(off, kTolerance) << name << ": " << weight;
        worst = std::max(worst, off);
      }
      ++count;
    };
    const Score score = model.loss_and_gradients(
        weights, tokens, std::vector<std::int32_t>(labels.begin(), labels.end()), training,
        compare);
    EXPECT_NEAR(score.loss, tensor(name + ".loss")(0, 0), kTolerance);
    EXPECT_EQ(count, training.trained.size());
    std::ostringstream text;
    text << worst;
    testing::Test::RecordProperty("deviation_" + name, text.str());
  }
}

}  // namespace
}  // namespace gradview
