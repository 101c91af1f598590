// Hugging Face folders: what is read, under which names, what is refused, and what is written.
#include "gradview/io/hf.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;

const std::string bert_config =
    R"({"model_type": "bert", "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 3,
        "intermediate_size": 5, "vocab_size": 7, "max_position_embeddings": 4)";
const std::string gpt2_config =
    R"({"model_type": "gpt2", "n_embd": 6, "n_layer": 1, "n_head": 2, "vocab_size": 7)";
const std::string llama_config =
    R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 5, "vocab_size": 7)";

HfConfig parse(const std::string& start, const std::string& more = "") {
  return parse_hf_config("config.json", start + more + "}");
}

class Folder {
 public:
  Folder() {
    std::string path = (fs::temp_directory_path() / "gradview-hf-XXXXXX").string();
    path_ = mkdtemp(path.data());
  }
  Folder(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void file(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

struct Stand {  // a tensor of a file, whose entries are known by its name
  std::string name;
  std::vector<std::size_t> shape;
};

std::vector<Real> values_of(const std::string& name, std::size_t count) {
  const Matrix drawn = normal({1, count}, 1, Stream(1, Purpose::test, name));
  return {drawn.begin(), drawn.end()};
}

void save(const std::string& path, const std::vector<Stand>& tensors) {
  SafetensorsWriter::Shapes shapes;
  for (const Stand& t : tensors) shapes.emplace_back(t.name, t.shape);
  SafetensorsWriter writer(path, shapes);
  for (const Stand& t : tensors) {
    std::size_t count = 1;
    for (const std::size_t n : t.shape) count *= n;
    const std::vector<Real> values = values_of(t.name, count);
    writer.write(t.name, 0, values.data(), count);
  }
  writer.commit();
}

// As transformers would name and shape them, with `prefix` off.
std::vector<Stand> stands(const std::vector<WeightSpec>& specs, const std::string& prefix = "") {
  std::vector<Stand> all;
  for (const WeightSpec& s : specs) {
    std::vector<std::size_t> shape = {s.shape.rows, s.shape.cols};
    if (s.stored == Stored::transposed) shape = {s.shape.cols, s.shape.rows};
    if (s.stored == Stored::vector) shape = {s.shape.cols};
    const bool off = !prefix.empty() && s.name.starts_with(prefix);
    all.push_back({off ? s.name.substr(prefix.size()) : s.name, shape});
  }
  return all;
}

TEST(HfConfig, ReadsWhatTransformers4And5Write) {
  const HfConfig bert = parse(bert_config, R"(, "classifier_dropout": null, "pad_token_id": 3)");
  EXPECT_EQ(bert.trunk.head_width, 2U);
  EXPECT_EQ(bert.trunk.types, 2U);
  EXPECT_EQ(bert.trunk.eps, 1e-12);
  EXPECT_EQ(bert.trunk.padding, 3);
  EXPECT_EQ(bert.classifier_dropout, 0.1);
  EXPECT_EQ(bert.labels, (std::vector<std::string>{"LABEL_0", "LABEL_1"}));
  const std::string names = R"(, "id2label": {"1": "b", "0": "a", "2": "c"})";
  EXPECT_EQ(parse(bert_config, names).labels, (std::vector<std::string>{"a", "b", "c"}));

  const HfConfig gpt2 = parse(gpt2_config, R"(, "n_inner": null, "resid_pdrop": 0.2)");
  EXPECT_EQ(gpt2.trunk.hidden, 24U);
  EXPECT_EQ(gpt2.trunk.hidden_dropout, 0.2);
  EXPECT_TRUE(gpt2.tied);

  const HfConfig four = parse(llama_config, R"(, "rope_theta": 100000.0, "rope_scaling": null,
      "torch_dtype": "bfloat16", "num_key_value_heads": 2, "tie_word_embeddings": true)");
  EXPECT_EQ(four.trunk.rope->theta, 100000);
  EXPECT_EQ(four.trunk.kv_heads, 2U);
  EXPECT_TRUE(four.tied);
  EXPECT_FALSE(parse(llama_config).tied);
  EXPECT_EQ(parse(llama_config).trunk.kv_heads, 4U);
  for (const std::string scaled :
       {R"(, "rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 4.0})",
        R"(, "rope_theta": 500, "rope_scaling": {"rope_type": "linear", "factor": 4})",
        R"(, "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0})"}) {
    EXPECT_EQ(parse(llama_config, scaled).trunk.rope->theta, 500) << scaled;
    EXPECT_EQ(parse(llama_config, scaled).trunk.rope->factor, 4) << scaled;
  }
  EXPECT_EQ(parse(llama_config, R"(, "head_dim": 6)").trunk.head_width, 6U);
}

TEST(HfConfig, RefusesByName) {
  struct Case {
    std::string start, more, what;
  };
  const std::vector<Case> cases = {
      {"", "", "is not a JSON object"},
      {"[1", "]", "is not a JSON object"},
      {"{", "", "model_type '' is not supported; there are bert, gpt2, llama"},
      {R"({"model_type": "mistral")", "", "model_type 'mistral' is not supported"},
      {R"({"model_type": 3)", "", "'model_type' is 3, expected a string"},
      {R"({"model_type": "bert")", "", "has no 'hidden_size'"},
      {bert_config, R"(, "hidden_size": 7)", "'hidden_size' 7 is no multiple"},
      {bert_config, R"(, "vocab_size": 0)", "'vocab_size' is 0, expected a number from 1"},
      {bert_config, R"(, "vocab_size": -3)", "'vocab_size' is -3, expected"},
      {bert_config, R"(, "vocab_size": 1e3)", "'vocab_size' is 1000.0, expected"},
      {bert_config, R"(, "num_hidden_layers": 100000000)", "expected a number from 1 to 10000"},
      {bert_config, R"(, "hidden_dropout_prob": 1)", "'hidden_dropout_prob' is 1, expected"},
      {bert_config, R"(, "hidden_act": "mish")", "'hidden_act': \"mish\" is not supported"},
      {bert_config, R"(, "position_embedding_type": "relative_key")", "is not supported"},
      {bert_config, R"(, "is_decoder": true)", "'is_decoder': true is not supported"},
      {bert_config, R"(, "is_decoder": 1)", "'is_decoder' is 1, expected true or false"},
      {bert_config, R"(, "id2label": {"0": "a", "2": "b"})", "does not name the labels 0 to 1"},
      {bert_config, R"(, "quantization_config": {"bits": 4})", "'quantization_config'"},
      {gpt2_config, R"(, "scale_attn_by_inverse_layer_idx": true)", "is not supported"},
      {gpt2_config, R"(, "scale_attn_weights": false)", "is not supported"},
      {llama_config, R"(, "num_key_value_heads": 3)", "is no multiple of 'num_key_value_heads' 3"},
      {llama_config, R"(, "head_dim": 3)", "odd width"},
      {llama_config, R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8})",
       "rope_scaling: 'rope_type': \"llama3\" is not supported"},
      {llama_config, R"(, "rope_scaling": {"type": "linear"})", "has no 'factor'"},
      {llama_config, R"(, "rope_parameters": 3)", "'rope_parameters' is not an object"},
      {llama_config, R"(, "rope_theta": "x")", "'rope_theta' is \"x\", expected a number"}};
  for (const Case& c : cases) expect_error<DataError>(c.what, [&] { parse(c.start, c.more); });
}

TEST(HfFolder, ReadsEveryWeightUnderTheNamesThatThereAre) {
  for (const std::string prefix : {"", "bert."}) {
    const Folder folder;
    folder.file("config.json", bert_config + "}");
    const std::vector<WeightSpec> specs =
        Classifier{parse(bert_config).trunk, 2, Pooling::cls}.weights();
    std::vector<Stand> tensors = stands(specs, prefix);
    tensors.pop_back();  // the head's bias and weight are not there
    tensors.pop_back();
    for (Stand& t : tensors) {
      if (t.name.ends_with("embeddings.LayerNorm.weight"))
        t.name.replace(t.name.size() - 6, 6, "gamma");
      if (t.name.ends_with("embeddings.LayerNorm.bias"))
        t.name.replace(t.name.size() - 4, 4, "beta");
    }
    tensors.push_back({"embeddings.position_ids", {1, 4}});
    tensors.push_back({"cls.predictions.bias", {7}});
    save(folder / "model.safetensors", tensors);
    const HfFolder hf(folder.path());
    std::vector<std::string> fresh;
    const Weights weights = hf.read(specs, 3, &fresh);
    EXPECT_EQ(fresh, (std::vector<std::string>{"classifier.weight", "classifier.bias"}));
    ASSERT_EQ(weights.size(), specs.size());
    for (std::size_t i = 0; i + 2 < specs.size(); ++i) {
      const Matrix& got = weights[specs[i].name];
      ASSERT_EQ(shape_of(got), specs[i].shape) << specs[i].name;
      const std::vector<Real> expected = values_of(tensors[i].name, got.size());
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), got.begin())) << specs[i].name;
    }
    EXPECT_EQ(weights["classifier.bias"], zeros({1, 2}));
    EXPECT_NE(weights["classifier.weight"], zeros({2, 6}));
    EXPECT_EQ(hf.read(specs, 3)["classifier.weight"], weights["classifier.weight"]);
    EXPECT_NE(hf.read(specs, 4)["classifier.weight"], weights["classifier.weight"]);
    // Another number of labels: another head.
    const Classifier five = hf.classifier(Pooling::cls, 5);
    EXPECT_EQ(shape_of(hf.read(five.weights())["classifier.weight"]), (Shape{5, 6}));
    expect_error<DataError>("is no causal language model", [&] { hf.language_model(); });
  }
}

TEST(HfFolder, TurnsWeightsThatAreStoredTransposed) {
  const Folder folder;
  folder.file("config.json", gpt2_config + "}");
  const std::vector<WeightSpec> specs = LanguageModel{parse(gpt2_config).trunk, true}.weights();
  std::vector<Stand> tensors = stands(specs, "transformer.");
  tensors.push_back({"h.0.attn.bias", {1, 1, 8, 8}});
  save(folder / "model.safetensors", tensors);
  const HfFolder hf(folder.path());
  EXPECT_TRUE(hf.language_model().tied);
  const Weights weights = hf.read(hf.language_model().weights());
  const Matrix& w = weights["transformer.h.0.attn.c_attn.weight"];
  ASSERT_EQ(shape_of(w), (Shape{18, 6}));
  const std::vector<Real> stored = values_of("h.0.attn.c_attn.weight", w.size());
  for (std::size_t i = 0; i < 18; ++i) {
    for (std::size_t j = 0; j < 6; ++j) EXPECT_EQ(w(i, j), stored[j * 18 + i]);
  }
  expect_error<DataError>("has no classifier here", [&] { hf.classifier(); });
}

TEST(HfFolder, ReadsShards) {
  const Folder folder;
  folder.file("config.json", gpt2_config + "}");
  const std::vector<WeightSpec> specs = LanguageModel{parse(gpt2_config).trunk, true}.weights();
  const std::vector<Stand> all = stands(specs);
  const auto half = all.begin() + 5;
  save(folder / "a.safetensors", {all.begin(), half});
  save(folder / "b.safetensors", {half, all.end()});
  std::string map;
  for (std::size_t i = 0; i < all.size(); ++i) {
    map += (i ? ", \"" : "\"") + all[i].name + "\": \"" + (i < 5 ? "a" : "b") + ".safetensors\"";
  }
  const auto index = [&](const std::string& text) {
    folder.file("model.safetensors.index.json", text);
  };
  index(R"({"metadata": {}, "weight_map": {)" + map + "}}");
  const Weights weights = HfFolder(folder.path()).read(specs);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const Matrix& got = weights[specs[i].name];
    EXPECT_EQ((specs[i].stored == Stored::transposed ? transpose(got) : got).data()[0],
              values_of(all[i].name, got.size())[0]);
  }
  const auto refused = [&](const std::string& what) {
    expect_error<DataError>(what, [&] { HfFolder hf(folder.path()); });
  };
  index(R"({"weight_map": {)" + map + R"(, "x": "a.safetensors"}})");
  refused("a.safetensors: has no tensor 'x', which the index says");
  index(R"({"weight_map": {)" + map + R"(, "x": "../a.safetensors"}})");
  refused("the shard of 'x' is not a file's name");
  index(R"({"weight_map": {"x": 3}})");
  refused("the shard of 'x' is not a file's name");
  index(R"({"weight_map": [)");
  refused("is not a JSON object with a 'weight_map'");
  index(R"({"weight_map": {)" + map + "}}");
  fs::remove(folder / "b.safetensors");
  refused("b.safetensors: cannot open");
}

TEST(HfFolder, RefusesWhatIsNotTheModel) {
  const Folder folder;
  const auto refused = [&](const std::string& what) {
    expect_error<DataError>(what, [&] {
      const HfFolder hf(folder.path());
      hf.read(hf.language_model().weights());
    });
  };
  expect_error<DataError>("is no folder", [&] { HfFolder hf(folder / "none"); });
  refused("config.json: cannot open");
  folder.file("config.json", llama_config + "}");
  refused("has neither model.safetensors nor model.safetensors.index.json");
  folder.file("pytorch_model.bin", "");
  refused("pytorch_model.bin is not read");
  std::vector<Stand> all = stands(LanguageModel{parse(llama_config).trunk, false}.weights());
  const auto with = [&](const std::vector<Stand>& tensors) {
    save(folder / "model.safetensors", tensors);
  };
  with(all);
  EXPECT_NO_THROW(HfFolder(folder.path()).read(HfFolder(folder.path()).language_model().weights()));
  const Stand head = all.back();
  all.pop_back();
  with(all);
  refused("has no tensor 'lm_head.weight', and tie_word_embeddings is false");
  all.push_back({"lm_head.weight", {7, 9}});
  with(all);
  refused("tensor 'lm_head.weight' has shape [7, 9], expected [7, 8]");
  all.back() = head;
  all.push_back({"model.layers.1.mlp.up_proj.weight", {5, 8}});
  with(all);
  refused("has tensors that a llama model has not: 'model.layers.1.mlp.up_proj.weight'");
  all.pop_back();
  all.erase(all.begin() + 3);
  with(all);
  refused("has no tensor 'model.layers.0.self_attn.k_proj.weight'");
}

TEST(HfFolder, WritesWhatItReads) {
  const Folder folder;
  folder.file("config.json", gpt2_config + R"(, "torch_dtype": "bfloat16"})");
  folder.file("vocab.json", "words");
  const std::vector<WeightSpec> specs = LanguageModel{parse(gpt2_config).trunk, true}.weights();
  save(folder / "model.safetensors", stands(specs));
  const HfFolder hf(folder.path());
  const LanguageModel model = hf.language_model();
  Weights weights = hf.read(model.weights());
  weights["transformer.h.0.mlp.c_fc.weight"](2, 1) = 7;
  hf.write(folder / "merged", model, weights);
  const HfFolder merged(folder / "merged");
  const Weights again = merged.read(merged.language_model().weights());
  for (const auto& [name, value] : weights) EXPECT_EQ(again[name], value) << name;
  EXPECT_EQ(read_text(folder / "merged/vocab.json"), "words");
  const std::string config = read_text(folder / "merged/config.json");
  EXPECT_NE(config.find(sizeof(Real) == 4 ? R"("torch_dtype": "float32")"
                                          : R"("torch_dtype": "float64")"),
            config.npos);
  EXPECT_NE(config.find("GPT2LMHeadModel"), config.npos);

  const std::size_t before = folder.entries();
  expect_error<IoError>("merged: is there already",
                        [&] { hf.write(folder / "merged", model, weights); });
  expect_error<IoError>("cannot be made",
                        [&] { hf.write(folder / "none/merged", model, weights); });
  weights["transformer.wte.weight"] = zeros({2, 2});
  EXPECT_THROW(hf.write(folder / "other", model, weights), std::invalid_argument);
  EXPECT_EQ(folder.entries(), before);
}

TEST(HfFolder, WritesAClassifierWithItsLabels) {
  const Folder folder;
  folder.file("config.json", bert_config + "}");
  Classifier model{parse(bert_config).trunk, 3, Pooling::cls};
  save(folder / "model.safetensors", stands(model.weights()));
  const HfFolder hf(folder.path());
  const Weights weights = hf.read(model.weights());
  hf.write(folder / "merged", model, weights);
  const HfFolder merged(folder / "merged");
  EXPECT_EQ(merged.config().labels, (std::vector<std::string>{"LABEL_0", "LABEL_1", "LABEL_2"}));
  EXPECT_EQ(merged.read(merged.classifier().weights())["classifier.weight"],
            weights["classifier.weight"]);
  model.pooling = Pooling::mean;
  expect_error<std::invalid_argument>("pools by mean cannot be written",
                                      [&] { hf.write(folder / "mean", model, weights); });
}

}  // namespace
}  // namespace gradview
