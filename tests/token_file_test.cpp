// Files of tokens: what is read from them, what is refused and why, and the model over them.
#include "gradview/io/token_file.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/models/text_model.hpp"
#include "recorded_checkpoint.hpp"

namespace gradview {
namespace {

using nlohmann::json;
using Numbers = std::vector<std::int64_t>;

struct Integers {
  std::vector<std::size_t> shape;
  Numbers values;
  std::string dtype = "I64";
};

class Written {  // a safetensors of integers
 public:
  explicit Written(const std::map<std::string, Integers>& tensors, const json& metadata = {}) {
    std::string path = (std::filesystem::temp_directory_path() / "gradview-tokens-XXXXXX").string();
    close(mkstemp(path.data()));
    path_ = path;
    json header;
    if (!metadata.is_null()) header["__metadata__"] = metadata;
    std::string data;
    for (const auto& [name, t] : tensors) {
      const std::size_t begin = data.size(), bytes = t.dtype == "I32" ? 4 : 8;
      for (const std::int64_t x : t.values) data.append(reinterpret_cast<const char*>(&x), bytes);
      header[name] = {
          {"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file << text << data;
  }
  Written(const Written&) = delete;
  ~Written() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::map<std::string, Integers> small() {
  return {{"input_ids", {{3, 4}, {5, 6, 7, 0, 0, 0, 8, 9, 1, 2, 3, 4}}},
          {"attention_mask", {{3, 4}, {1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1}, "I32"}},
          {"labels", {{3}, {2, 0, 1}}}};
}

TEST(TokenFile, GivesTheRowsThatAreAskedFor) {
  for (const char* dtype : {"I64", "I32"}) {
    auto tensors = small();
    tensors["input_ids"].dtype = dtype;
    tensors["token_type_ids"] = {{3, 4}, {0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0}};
    const Written file(tensors, {{"labels", R"(["a", "b", "c", "d"])"}});
    const TokenFile tokens(file.path());
    EXPECT_EQ(tokens.size(), 3U);
    EXPECT_EQ(tokens.length(), 4U);
    EXPECT_EQ(tokens.tokens(), 9U);
    EXPECT_EQ(tokens.classes(), 4U);
    EXPECT_EQ(tokens.label_names().back(), "d");
    EXPECT_EQ(tokens.labels()[0], 2);
    const std::vector<std::size_t> rows{1, 0};
    const Tokens plain = tokens.batch(rows, false);
    EXPECT_EQ(plain.ids, (std::vector<std::int32_t>{8, 9, 5, 6, 7}));
    EXPECT_EQ(plain.positions, (std::vector<std::int32_t>{2, 3, 0, 1, 2}));
    EXPECT_EQ(plain.types, (std::vector<std::int32_t>{0, 1, 0, 0, 1}));
    const Tokens first = tokens.batch(rows, true);
    EXPECT_EQ(first.ids, (std::vector<std::int32_t>{0, 8, 9, 5, 6, 7}));
    EXPECT_EQ(first.sequences[0].silent, 1U);
    expect_error<std::invalid_argument>("no row 3",
                                        [&] { tokens.batch(std::vector<std::size_t>{3}, false); });
  }
}

TEST(TokenFile, CountsClassesWhereNoneAreNamed) {
  auto tensors = small();
  EXPECT_EQ(TokenFile(Written(tensors).path()).classes(), 3U);
  tensors.erase("labels");
  const Written file(tensors);
  const TokenFile tokens(file.path());
  EXPECT_FALSE(tokens.labelled());
  EXPECT_EQ(tokens.classes(), 0U);
  expect_error<DataError>("no tensor 'labels'", [&] { tokens.require_labels(0, 3); });
}

TEST(TokenFile, RefusesWhatIsNoSuchFile) {
  struct Case {
    std::string name;
    Integers tensor;
    std::string says;
  };
  const Numbers ones(12, 1);
  const std::vector<Case> cases{
      {"input_ids", {{12}, ones}, "shape [12], expected [N, L]"},
      {"input_ids", {{0, 4}, {}}, "shape [0, 4], expected [N, L]"},
      {"input_ids",
       {{3, 4}, {1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1, 1}},
       "'input_ids' has -1 as its number 5"},
      {"input_ids", {{3, 4}, Numbers(12, std::int64_t{1} << 32)}, "4294967296 as its number 0"},
      {"input_ids", {{3, 4}, ones, "U64"}, "dtype U64, expected I64 or I32"},
      {"attention_mask", {{4, 3}, ones}, "shape [4, 3], expected [3, 4]"},
      {"attention_mask",
       {{3, 4}, {1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1}},
       "'attention_mask' has 2 as its number 4"},
      {"attention_mask", {{3, 4}, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1}}, "row 1 keeps no token"},
      {"token_type_ids", {{3, 3}, Numbers(9, 0)}, "shape [3, 3], expected [3, 4]"},
      {"labels", {{4}, {0, 1, 2, 0}}, "shape [4], expected [3]"},
      {"labels", {{3, 1}, {0, 1, 2}}, "shape [3, 1], expected [3]"},
      {"labels", {{3}, {0, -100, 2}}, "'labels' has -100 as its number 1"},
      {"label", {{3}, {0, 1, 2}}, "has a tensor 'label'; expected input_ids"},
  };
  for (const Case& each : cases) {
    auto tensors = small();
    tensors[each.name] = each.tensor;
    const Written file(tensors);
    expect_error<DataError>(each.says, [&] { TokenFile{file.path()}; });
  }
  for (const char* name : {"input_ids", "attention_mask"}) {
    auto tensors = small();
    tensors.erase(name);
    const Written file(tensors);
    expect_error<DataError>("has no tensor '" + std::string(name) + "'",
                            [&] { TokenFile{file.path()}; });
  }
  const Written unnamed(small(), {{"labels", "[1]"}}), few(small(), {{"labels", R"(["a", "b"])"}});
  expect_error<DataError>("not a JSON list of names", [&] { TokenFile{unnamed.path()}; });
  expect_error<DataError>("label 2 in row 0, expected 0 to 1", [&] { TokenFile{few.path()}; });
}

TEST(TokenFile, RefusesWhatTheModelHasNoRowsFor) {
  auto tensors = small();
  tensors["token_type_ids"] = {{3, 4}, {0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0}};
  const Written file(tensors);
  const TokenFile tokens(file.path());
  Transformer trunk;
  trunk.vocabulary = 10;
  trunk.positions = 4;
  trunk.types = 2;
  tokens.require_fits(trunk);
  trunk.vocabulary = 9;
  expect_error<DataError>("id 9 in row 1, the model has 9", [&] { tokens.require_fits(trunk); });
  trunk.vocabulary = 10;
  trunk.types = 1;
  expect_error<DataError>("type 1 in row 0, the model has 1", [&] { tokens.require_fits(trunk); });
  trunk.types = 0;
  trunk.positions = 3;
  expect_error<DataError>("position 3 in row 1, the model has 3",
                          [&] { tokens.require_fits(trunk); });
  auto lonely = small();
  lonely["attention_mask"].values = {1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1};
  const Written apart(lonely);
  tokens.require_next();
  expect_error<DataError>("row 1 has no token that another one follows",
                          [&] { TokenFile(apart.path()).require_next(); });
  trunk.rope = Rope{};
  tokens.require_fits(trunk);
  expect_error<DataError>("label 2 in row 0, expected 0 to 1",
                          [&] { tokens.require_labels(0, 2); });
}

// score is the loss that loss_and_gradients gives, logits give it too, and parts give the whole.
TEST(TextModel, SaysTheSameInEveryWay) {
  const RecordedCheckpoint bert("bert_cls"), llama("llama_tied");
  const std::vector<TextModel> models{TextModel(bert.hf().classifier(Pooling::cls, 3)),
                                      TextModel(bert.hf().classifier(Pooling::mean, 3), {1, 3}),
                                      TextModel(llama.hf().language_model())};
  for (const TextModel& model : models) {
    const RecordedCheckpoint& from = model.classifies() ? bert : llama;
    const Weights weights = from.hf().read(model.weights());
    Tokens tokens = from.tokens(model.keeps_first());
    std::vector<std::int32_t> labels;
    for (std::size_t b = 0; model.classifies() && b < tokens.sequences.size(); ++b) {
      labels.push_back(static_cast<std::int32_t>(1 + b % 2));
    }
    const TextBatch batch = model.batch(tokens, labels);
    const Score whole = model.score(weights, batch);
    const auto ignore = [](const std::string&, const Gradient&) {};
    EXPECT_NEAR(model.loss_and_gradients(weights, batch, {}, ignore).loss, whole.loss, 1e-12);
    Matrix logits = model.logits(weights, tokens);
    EXPECT_NEAR(model.score_of(logits, batch).loss, whole.loss, 1e-12);
    EXPECT_EQ(logits.shape()[1], model.outputs());
    const double share = 1 / static_cast<double>(batch.units());
    EXPECT_NEAR(cross_entropy_rows(logits, batch.labels, 1, model.classes()).loss * share,
                whole.loss, 1e-12);
    MeanScore mean;
    for (std::size_t b = 0; b < tokens.sequences.size(); ++b) {
      const TextBatch one =
          model.batch(part(tokens, b, 1), model.classifies() ? std::span(labels).subspan(b, 1)
                                                             : std::span<std::int32_t>());
      mean.add(model.score(weights, one), one.units());
    }
    EXPECT_EQ(mean.units(), batch.units());
    EXPECT_NEAR(mean.value().loss, whole.loss, 1e-12);
    EXPECT_NEAR(mean.value().accuracy, whole.accuracy, 1e-12);
  }
}

}  // namespace
}  // namespace gradview
