// Logits, loss and the gradient of every weight are those of transformers
// (tests/golden/transformers_models.py), on checkpoints read from a folder: in double to 1e-10, in
// float to 2e-5, of the largest entry of each.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>

#include "gradview/core/linalg.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/hf.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {
namespace {

namespace fs = std::filesystem;

constexpr double kTolerance = sizeof(Real) == 8 ? 1e-10 : 2e-5;

class Recorded {
 public:
  explicit Recorded(std::string name)
      : file_(GRADVIEW_GOLDEN_DIR "/transformers_models.safetensors"), name_(std::move(name)) {
    std::string path = (fs::temp_directory_path() / "gradview-hf-XXXXXX").string();
    folder_ = mkdtemp(path.data());
    write_atomically(folder_ + "/config.json", file_.metadata().at(name_));
    SafetensorsWriter::Shapes shapes;
    const std::string prefix = name_ + ".w.";
    for (const Tensor& t : file_.tensors()) {
      if (t.name.starts_with(prefix)) shapes.emplace_back(t.name.substr(prefix.size()), t.shape);
    }
    SafetensorsWriter writer(folder_ + "/model.safetensors", shapes);
    for (const auto& [key, shape] : shapes) {
      const std::vector<Real> values = entries(prefix + key);
      writer.write(key, 0, values.data(), values.size());
    }
    writer.commit();
    hf_ = std::make_unique<HfFolder>(folder_);
  }
  Recorded(const Recorded&) = delete;
  ~Recorded() { fs::remove_all(folder_); }

  const HfFolder& hf() const { return *hf_; }
  std::vector<Real> entries(const std::string& key) const {
    const Tensor* t = file_.find(key);
    if (!t) throw std::runtime_error("no " + key);
    std::vector<Real> values(t->size());
    file_.read(*t, 0, values.size(), values.data());
    return values;
  }
  template <class Number>
  std::vector<Number> numbers(const std::string& key) const {
    const std::vector<Real> values = entries(name_ + "." + key);
    return {values.begin(), values.end()};
  }
  std::size_t length() const { return file_.find(name_ + ".ids")->shape[1]; }
  Tokens tokens(bool keep_first) const {
    const auto types = keep_first || hf().config().model_type == "bert"
                           ? numbers<std::int32_t>("types")
                           : std::vector<std::int32_t>();
    return pack(numbers<std::int32_t>("ids"), numbers<std::uint8_t>("mask"), length(), keep_first,
                types);
  }

  void expect(const std::string& what, const Matrix& got, const std::vector<Real>& recorded) {
    ASSERT_EQ(got.size(), recorded.size()) << what;
    double largest = 0, off = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(recorded[i])));
      off = std::max(off, std::abs(static_cast<double>(got.data()[i]) - recorded[i]));
    }
    // The bias of the keys has no gradient but what rounding makes of it.
    const double scale = largest > 1e-12 ? largest : 1;
    EXPECT_LE(off, kTolerance * scale) << name_ << ": " << what;
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
             entries(name_ + ".g." + name));
      ++count;
    });
    EXPECT_EQ(count, specs.size());
    expect("loss", matrix({{score.loss}}), entries(name_ + ".loss"));
    std::ostringstream text;
    text << worst_;
    testing::Test::RecordProperty("deviation_" + name_, text.str());
  }

  // The rows that were packed of all that were recorded.
  std::vector<Real> packed_logits(const Tokens& tokens, std::size_t classes) const {
    const std::vector<Real> all = entries(name_ + ".logits");
    std::vector<Real> some;
    for (std::size_t b = 0; b < tokens.sequences.size(); ++b) {
      const Sequence& s = tokens.sequences[b];
      for (std::size_t t = s.first; t < s.first + s.count; ++t) {
        const std::size_t row = b * length() + static_cast<std::size_t>(tokens.positions[t]);
        some.insert(some.end(), all.begin() + static_cast<std::ptrdiff_t>(row * classes),
                    all.begin() + static_cast<std::ptrdiff_t>((row + 1) * classes));
      }
    }
    return some;
  }

 private:
  SafetensorsReader file_;
  std::string name_, folder_;
  std::unique_ptr<HfFolder> hf_;
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
  recorded.expect("logits", model.logits(weights, tokens),
                  recorded.packed_logits(tokens, model.trunk.vocabulary));
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
