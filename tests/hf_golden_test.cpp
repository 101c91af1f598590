// Logits, loss and the gradient of every weight are those of transformers
// (tests/golden/transformers_models.py), on checkpoints read from a folder: in double to 1e-10, in
// float to 2e-5, of the largest entry of each.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <sstream>
#include <string>

#include "gradview/core/linalg.hpp"
#include "recorded_checkpoint.hpp"

namespace gradview {
namespace {

constexpr double kTolerance = sizeof(Real) == 8 ? 1e-10 : 2e-5;

class Recorded : public RecordedCheckpoint {
 public:
  using RecordedCheckpoint::RecordedCheckpoint;

  void expect(const std::string& what, const Matrix& got, const std::vector<Real>& recorded) {
    ASSERT_EQ(got.size(), recorded.size()) << what;
    double largest = 0, off = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(recorded[i])));
      off = std::max(off, std::abs(static_cast<double>(got.data()[i]) - recorded[i]));
    }
    // The bias of the keys has no gradient but what rounding makes of it.
    const double scale = largest > 1e-12 ? largest : 1;
    EXPECT_LE(off, kTolerance * scale) << which() << ": " << what;
    worst_ = std::max(worst_, off / scale);
  }
  // The gradients of all weights, each collected once.
  template <class Run>
  void expect_gradients(const std::vector<WeightSpec>& specs, const Run& run) {
    Training training;
    std::map<std::string, Stored> stored;
    for (const WeightSpec& spec : specs) {
      training.trained.insert(spec.name);
      stored[spec.name] = spec.stored;
    }
    std::size_t count = 0;
    const Score score = run(training, [&](const std::string& name, const Gradient& g) {
      const Matrix dense = g.materialize();
      const bool turned = stored.at(name) == Stored::transposed;
      expect("gradient of " + name, turned ? transpose(dense) : dense,
             entries(which() + ".g." + name));
      ++count;
    });
    EXPECT_EQ(count, specs.size());
    expect("loss", matrix({{score.loss}}), entries(which() + ".loss"));
    std::ostringstream text;
    text << worst_;
    testing::Test::RecordProperty("deviation_" + which(), text.str());
  }

 private:
  double worst_ = 0;
};

void expect_classifier(const std::string& name, Pooling pooling) {
  Recorded recorded(name);
  const Classifier model = recorded.hf().classifier(pooling);
  const Weights weights = recorded.hf().read(model.weights());
  const Tokens tokens = recorded.tokens(pooling == Pooling::cls);
  recorded.expect("logits", model.logits(weights, tokens), recorded.entries(name + ".logits"));
  const auto labels = recorded.numbers<std::int32_t>("labels");
  recorded.expect_gradients(model.weights(), [&](const Training& how, const Collect& collect) {
    return model.loss_and_gradients(weights, tokens, labels, how, collect);
  });
}

void expect_language_model(const std::string& name) {
  Recorded recorded(name);
  const LanguageModel model = recorded.hf().language_model();
  const Weights weights = recorded.hf().read(model.weights());
  const Tokens tokens = recorded.tokens(false);
  recorded.expect(
      "logits", model.logits(weights, tokens),
      recorded.packed(recorded.entries(name + ".logits"), tokens, model.trunk.vocabulary));
  recorded.expect_gradients(model.weights(), [&](const Training& how, const Collect& collect) {
    return model.loss_and_gradients(weights, tokens, next_ids(tokens), how, collect);
  });
}

TEST(HfGolden, BertWithItsOwnHead) { expect_classifier("bert_cls", Pooling::cls); }
TEST(HfGolden, BertPooledByTheMean) { expect_classifier("bert_mean", Pooling::mean); }
TEST(HfGolden, Gpt2) { expect_language_model("gpt2"); }
TEST(HfGolden, LlamaTied) { expect_language_model("llama_tied"); }
TEST(HfGolden, LlamaUntied) { expect_language_model("llama_untied"); }

}  // namespace
}  // namespace gradview
