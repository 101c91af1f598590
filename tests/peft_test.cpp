// Adapters: what PEFT wrote gives PEFT's logits (tests/golden/peft_models.py; in double to 1e-10, in
// float to 2e-5), what we write is what PEFT wrote, and what is refused.
#include "gradview/io/peft.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/projections/registry.hpp"
#include "recorded_checkpoint.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kTolerance = sizeof(Real) == 8 ? 1e-10 : 2e-5;

class Folder {
 public:
  Folder() {
    std::string path = (fs::temp_directory_path() / "gradview-peft-XXXXXX").string();
    path_ = mkdtemp(path.data());
  }
  Folder(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class Saved {  // an adapter of the recording, in a folder of its own
  SafetensorsReader file_;

 public:
  Folder folder;
  std::map<std::string, std::pair<std::vector<std::size_t>, std::vector<Real>>> tensors;
  std::string config;

  explicit Saved(const std::string& name)
      : file_(GRADVIEW_GOLDEN_DIR "/peft_models.safetensors"), config(file_.metadata().at(name)) {
    const std::string prefix = name + ".a.";
    for (const Tensor& t : file_.tensors()) {
      if (!t.name.starts_with(prefix)) continue;
      std::vector<Real> values(t.size());
      file_.read(t, 0, t.size(), values.data());
      tensors[t.name.substr(prefix.size())] = {t.shape, std::move(values)};
    }
    write();
  }
  void write() const {
    write_atomically(folder / "adapter_config.json", config);
    SafetensorsWriter::Shapes shapes;
    for (const auto& [key, value] : tensors) shapes.emplace_back(key, value.first);
    SafetensorsWriter writer(folder / "adapter_model.safetensors", shapes);
    for (const auto& [key, value] : tensors) {
      writer.write(key, 0, value.second.data(), value.second.size());
    }
    writer.commit();
  }
  std::vector<Real> logits(const std::string& name) const {
    const Matrix all = file_.matrix(*file_.find(name + ".logits"));
    return {all.begin(), all.end()};
  }
};

std::vector<std::pair<std::string, std::string>> cases() {
  const SafetensorsReader file(GRADVIEW_GOLDEN_DIR "/peft_models.safetensors");
  std::istringstream lines(file.metadata().at("cases"));
  std::vector<std::pair<std::string, std::string>> all;
  for (std::string name, base; lines >> name >> base;) all.emplace_back(name, base);
  return all;
}

struct Model {
  RecordedCheckpoint base;
  bool encoder;
  std::vector<WeightSpec> specs;

  explicit Model(const std::string& name)
      : base(name),
        encoder(!base.hf().config().trunk.causal),
        specs(encoder ? base.hf().classifier().weights() : base.hf().language_model().weights()) {}
  Matrix logits(const Weights& weights, std::vector<Real>* recorded) const {
    const Tokens tokens = base.tokens(encoder);
    if (encoder) return base.hf().classifier().logits(weights, tokens);
    const LanguageModel model = base.hf().language_model();
    *recorded = base.packed(*recorded, tokens, model.trunk.vocabulary);
    return model.logits(weights, tokens);
  }
};

TEST(Peft, AdaptersGiveTheLogitsOfPeft) {
  double worst = 0;
  for (const auto& [name, on] : cases()) {
    const Model model(on);
    const Saved saved(name);
    const Adapter adapter = read_peft(saved.folder.path(), model.specs);
    Weights weights = model.base.hf().read(model.specs);
    merge(adapter, weights);
    std::vector<Real> recorded = saved.logits(name);
    const Matrix logits = model.logits(weights, &recorded);
    ASSERT_EQ(logits.size(), recorded.size()) << name;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double off = std::abs(static_cast<double>(logits.data()[i]) - recorded[i]) /
                         std::max(1.0, std::abs(static_cast<double>(recorded[i])));
      EXPECT_LE(off, kTolerance) << name;
      worst = std::max(worst, off);
    }
  }
  std::ostringstream text;
  text << worst;
  RecordProperty("deviation", text.str());
}

// Keys, shapes and values are those of PEFT's own file, so PEFT loads ours as it loads its own.
TEST(Peft, WritesWhatPeftWrote) {
  for (const auto& [name, on] : cases()) {
    const Model model(on);
    const Saved saved(name);
    const Adapter adapter = read_peft(saved.folder.path(), model.specs);
    const Folder out;
    write_peft(out.path(), adapter, model.specs);
    const SafetensorsReader file(out / "adapter_model.safetensors");
    EXPECT_EQ(file.tensors().size(), saved.tensors.size()) << name;
    for (const auto& [key, value] : saved.tensors) {
      const Tensor* t = file.find(key);
      ASSERT_TRUE(t) << name << ": " << key;
      EXPECT_EQ(t->shape, value.first) << name << ": " << key;
      std::vector<Real> got(t->size());
      file.read(*t, 0, got.size(), got.data());
      EXPECT_EQ(got, value.second) << name << ": " << key;
    }
    const json ours = json::parse(read_text(out / "adapter_config.json"));
    const json theirs = json::parse(saved.config);
    for (const char* key :
         {"peft_type", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "r", "alpha",
          "lora_alpha", "init_r", "decompose_both", "decompose_factor"}) {
      // The common rank is ours to choose where there are several.
      const bool rank = std::string(key) == "r" || std::string(key).ends_with("alpha");
      if (!ours.contains(key) || (rank && name == "bert_lora")) continue;
      EXPECT_EQ(ours[key], theirs[key]) << name << ": " << key;
    }
    const Adapter again = read_peft(out.path(), model.specs);
    ASSERT_EQ(again.modules.size(), adapter.modules.size());
    for (std::size_t i = 0; i < again.modules.size(); ++i) {
      EXPECT_EQ(again.modules[i].path, adapter.modules[i].path);
      EXPECT_EQ(again.modules[i].factors, adapter.modules[i].factors);
      EXPECT_EQ(again.scale(again.modules[i]), adapter.scale(adapter.modules[i])) << name;
    }
    EXPECT_EQ(again.saved, adapter.saved);
    EXPECT_EQ(again.biases, adapter.biases);
  }
}

TEST(Peft, TakesTheProductOfAProjector) {
  const Model model("bert_cls");
  const Weights start = model.base.hf().read(model.specs);
  const std::string path = "bert.encoder.layer.1.intermediate.dense";
  for (const std::string spec :
       {"lora:rank=3,alpha=5", "lora:rank=3,alpha=5,init=symmetric", "lora:rank=2,init=pissa",
        "lora:rank=3,alpha=5,scaling=rslora,init=symmetric"}) {
    Weights weights = start;
    Matrix& w = weights[path + ".weight"];
    const std::unique_ptr<Projector> projector =
        make_projector(parse_spec(spec), Site{.name = path, .weight = w, .seed = 3});
    Factors step = projector->factors();
    for (Matrix& factor : step) factor.fill(Real(0.01));
    projector->retract({Gradient(shape_of(w)), step, step, 1}, &w);
    const bool root = spec.find("rslora") != spec.npos;
    Adapter adapter;
    adapter.rslora = root;
    adapter.modules = {lora_module(path, *projector->product(), root)};
    const Folder out;
    write_peft(out.path(), adapter, model.specs);
    Weights merged = start;
    merge(read_peft(out.path(), model.specs), merged);
    const Matrix& got = merged[path + ".weight"];
    const double scale = std::sqrt(squared_norm(w));
    for (std::size_t i = 0; i < w.size(); ++i) {
      // Sums of rank terms, as large as W at most.
      EXPECT_NEAR(got.data()[i], w.data()[i], 64 * std::numeric_limits<Real>::epsilon() * scale)
          << spec;
    }
  }
}

// Ours scale v by its own width, PEFT by the largest.
TEST(Peft, SharesTheFramesOfVera) {
  const Model model("bert_cls");
  const Weights start = model.base.hf().read(model.specs);
  Weights weights = start;
  Adapter adapter;
  adapter.method = "vera";
  for (const std::string path : {"bert.encoder.layer.0.intermediate.dense",
                                 "bert.encoder.layer.1.output.dense", "bert.pooler.dense"}) {
    Matrix& w = weights[path + ".weight"];
    const std::unique_ptr<Projector> vera =
        make_projector(parse_spec("vera:rank=4"), Site{.name = path, .weight = w, .seed = 3});
    Factors step = vera->factors();
    for (Matrix& factor : step) factor.fill(Real(0.25));
    vera->retract({Gradient(shape_of(w)), step, step, 1}, &w);
    adapter.modules.push_back({path, {}, 4, 4});
    vera->fields([&](std::string_view name, Matrix& value, Role) {
      adapter.modules.back().factors[std::string(name)] = value;
    });
  }
  const Folder out;
  write_peft(out.path(), adapter, model.specs);
  Weights merged = start;
  merge(read_peft(out.path(), model.specs), merged);
  for (const auto& [name, w] : weights) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      // Sums of four terms below one.
      EXPECT_NEAR(merged[name].data()[i], w.data()[i], 64 * std::numeric_limits<Real>::epsilon());
    }
  }
  adapter.modules[1].factors.at("u")(0, 0) += 1;
  EXPECT_THROW(write_peft(out.path(), adapter, model.specs), std::invalid_argument);
}

TEST(Peft, NamesWhatIsMissingAndWhatIsLeftOver) {
  const Model model("bert_cls");
  Saved saved("bert_lora");
  const std::string key =
      "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
  saved.tensors["base_model.model.x.lora_A.weight"] = saved.tensors.at(key);
  saved.tensors.erase(key);
  saved.write();
  expect_error<DataError>("missing: '" + key + "'; unexpected: 'base_model.model.x.lora_A.weight'",
                          [&] { read_peft(saved.folder.path(), model.specs); });
  // An adapter for another base.
  const Model other("gpt2");
  expect_error<DataError>("unexpected: ",
                          [&] { read_peft(Saved("bert_lora").folder.path(), other.specs); });
}

TEST(Peft, RefusesByName) {
  const Model model("bert_cls");
  const auto refused = [&](const std::string& what, const auto& change) {
    Saved saved("bert_lora");
    json config = json::parse(saved.config);
    change(config, saved);
    saved.config = config.dump();
    saved.write();
    expect_error<DataError>(what, [&] { read_peft(saved.folder.path(), model.specs); });
  };
  const auto with = [](const std::string& key, const json& value) {
    return [=](json& config, Saved&) { config[key] = value; };
  };
  refused("peft_type 'BOFT' is not supported", with("peft_type", "BOFT"));
  refused("'lora_bias' is not supported", with("lora_bias", true));
  refused("'trainable_token_indices' is not supported", with("trainable_token_indices", {1, 2}));
  refused("'init_lora_weights': 'pissa' goes with changed", with("init_lora_weights", "pissa"));
  refused("has no 'target_modules'", with("target_modules", nullptr));
  refused("no regular expression: '('", with("target_modules", "("));
  refused("'r' is not a positive number", with("r", -3));
  refused("'bias' is 'some'", with("bias", "some"));
  refused("has rank 3, its configuration says 4", with("r", 4));
  refused("expected two dimensions", [](json&, Saved& saved) {
    auto& [shape, values] = saved.tensors.begin()->second;
    shape = {values.size()};
  });
  refused("of shape 12 x 12", [](json&, Saved& saved) {
    for (auto& [key, value] : saved.tensors) {
      if (key.find("query.lora_B") != key.npos) value = {{11, 3}, std::vector<Real>(33)};
    }
  });
  Saved cut("bert_lora");
  fs::resize_file(cut.folder / "adapter_model.safetensors", 3000);
  expect_error<DataError>("adapter_model.safetensors",
                          [&] { read_peft(cut.folder.path(), model.specs); });
  fs::remove(cut.folder / "adapter_model.safetensors");
  expect_error<DataError>("cannot open", [&] { read_peft(cut.folder.path(), model.specs); });
}

TEST(Peft, WritesNoAdapterThatPeftHasNot) {
  const Model model("gpt2");
  Adapter adapter = read_peft(Saved("gpt2_lora").folder.path(), model.specs);
  const Folder out;
  const auto refused = [&](const std::string& what) {
    expect_error<std::invalid_argument>(what, [&] { write_peft(out / "a", adapter, model.specs); });
    EXPECT_FALSE(fs::exists(out / "a"));
  };
  adapter.method = "loha";
  refused("PEFT's loha cannot sit on transformer.h.0.attn.c_attn");
  adapter.method = "galore";
  refused("PEFT has no adapter 'galore'");
  adapter.method = "lora";
  adapter.modules[0].path = "nowhere";
  refused("the model has no module 'nowhere'");
  adapter.modules.clear();
  refused("there is no module");
}

TEST(Peft, DoesNotMergeIntoATiedWeight) {
  const Model model("llama_tied");
  Weights weights = model.base.hf().read(model.specs);
  const std::string words = "model.embed_tokens";
  Adapter adapter;
  adapter.modules = {lora_module(words, {zeros({13, 2}), zeros({2, 12}), 1})};
  expect_error<std::invalid_argument>("model.embed_tokens.weight is the head as well", [&] {
    merge(adapter, weights, model.base.hf().language_model().head_weight());
  });
}

}  // namespace
}  // namespace gradview
