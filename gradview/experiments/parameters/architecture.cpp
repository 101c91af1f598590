#include "gradview/experiments/parameters/architecture.hpp"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"

namespace gradview {
namespace {

using Json = nlohmann::json;

// The numbers of a config.json, each asked for by name.
class Config {
 public:
  Config(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {
    if (!json_.is_object()) throw DataError(where_ + ": expected a JSON object");
  }
  std::string text(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end() || !found->is_string()) {
      throw DataError(fmt::format("{}: '{}' is missing or not a string", where_, key));
    }
    return found->get<std::string>();
  }
  bool flag(const char* key, bool absent) const {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return absent;
    if (!found->is_boolean()) throw DataError(fmt::format("{}: '{}' is not a bool", where_, key));
    return found->get<bool>();
  }
  bool has(const char* key) const {
    const auto found = json_.find(key);
    return found != json_.end() && !found->is_null();
  }
  std::size_t count(const char* key) const {
    constexpr double kMost = 1e7;  // products of two stay exact
    const auto found = json_.find(key);
    const double value = found != json_.end() && found->is_number() ? found->get<double>() : 0;
    if (!(value >= 1 && value <= kMost && value == std::floor(value))) {
      throw DataError(fmt::format("{}: '{}' is {}, expected a whole number from 1 to {}", where_,
                                  key, found == json_.end() ? "missing" : found->dump(), kMost));
    }
    return static_cast<std::size_t>(value);
  }
  std::size_t count(const char* key, std::size_t absent) const {
    return has(key) ? count(key) : absent;
  }
  std::size_t heads(std::size_t hidden) const {  // that share `hidden` evenly
    const std::size_t heads = count("num_attention_heads");
    if (heads <= hidden && (has("head_dim") || hidden % heads == 0)) return heads;
    throw DataError(
        fmt::format("{}: 'num_attention_heads' is {}, which does not divide the hidden "
                    "size {}",
                    where_, heads, hidden));
  }
  const std::string& where() const { return where_; }

 private:
  Json json_;
  std::string where_;
};

class Builder {
 public:
  explicit Builder(std::size_t blocks) : blocks_(blocks) {}
  void once(const std::string& name, std::size_t m, std::size_t n) {
    weights.push_back({name, {m, n}, 1, false});
  }
  void block(const std::string& name, std::size_t m, std::size_t n) {
    weights.push_back({name, {m, n}, blocks_, true});
  }
  void linear(const std::string& name, std::size_t m, std::size_t n, bool bias) {
    block(name + ".weight", m, n);
    if (bias) block(name + ".bias", 1, m);
  }
  void norm(const std::string& name, std::size_t n, bool bias) {
    block(name + ".weight", 1, n);
    if (bias) block(name + ".bias", 1, n);
  }
  std::vector<WeightGroup> weights;

 private:
  std::size_t blocks_;
};

std::vector<WeightGroup> bert(const Config& c) {
  const std::size_t h = c.count("hidden_size"), i = c.count("intermediate_size");
  Builder b(c.count("num_hidden_layers"));
  b.once("embeddings.word_embeddings.weight", c.count("vocab_size"), h);
  b.once("embeddings.position_embeddings.weight", c.count("max_position_embeddings"), h);
  b.once("embeddings.token_type_embeddings.weight", c.count("type_vocab_size"), h);
  b.once("embeddings.LayerNorm.weight", 1, h);
  b.once("embeddings.LayerNorm.bias", 1, h);
  const std::string layer = "encoder.layer.*.";
  for (const char* name : {"query", "key", "value"}) {
    b.linear(layer + "attention.self." + name, h, h, true);
  }
  b.linear(layer + "attention.output.dense", h, h, true);
  b.norm(layer + "attention.output.LayerNorm", h, true);
  b.linear(layer + "intermediate.dense", i, h, true);
  b.linear(layer + "output.dense", h, i, true);
  b.norm(layer + "output.LayerNorm", h, true);
  b.once("pooler.dense.weight", h, h);
  b.once("pooler.dense.bias", 1, h);
  return b.weights;
}

std::vector<WeightGroup> gpt2(const Config& c) {
  const std::size_t d = c.count("n_embd"), inner = c.count("n_inner", 4 * d);
  Builder b(c.count("n_layer"));
  b.once("wte.weight", c.count("vocab_size"), d);
  b.once("wpe.weight", c.count("n_positions"), d);
  b.norm("h.*.ln_1", d, true);
  b.linear("h.*.attn.c_attn", 3 * d, d, true);
  b.linear("h.*.attn.c_proj", d, d, true);
  b.norm("h.*.ln_2", d, true);
  b.linear("h.*.mlp.c_fc", inner, d, true);
  b.linear("h.*.mlp.c_proj", d, inner, true);
  b.once("ln_f.weight", 1, d);
  b.once("ln_f.bias", 1, d);
  return b.weights;
}

std::vector<WeightGroup> llama(const Config& c) {
  const std::size_t h = c.count("hidden_size"), i = c.count("intermediate_size");
  const std::size_t heads = c.heads(h);
  const std::size_t q = heads * c.count("head_dim", h / heads);
  const std::size_t kv = q / heads * c.count("num_key_value_heads", heads);
  const bool qkv_bias = c.flag("attention_bias", c.text("model_type") == "qwen2");
  const bool o_bias = c.flag("attention_bias", false), mlp_bias = c.flag("mlp_bias", false);
  Builder b(c.count("num_hidden_layers"));
  b.once("model.embed_tokens.weight", c.count("vocab_size"), h);
  const std::string layer = "model.layers.*.";
  b.linear(layer + "self_attn.q_proj", q, h, qkv_bias);
  b.linear(layer + "self_attn.k_proj", kv, h, qkv_bias);
  b.linear(layer + "self_attn.v_proj", kv, h, qkv_bias);
  b.linear(layer + "self_attn.o_proj", h, q, o_bias);
  b.linear(layer + "mlp.gate_proj", i, h, mlp_bias);
  b.linear(layer + "mlp.up_proj", i, h, mlp_bias);
  b.linear(layer + "mlp.down_proj", h, i, mlp_bias);
  b.norm(layer + "input_layernorm", h, false);
  b.norm(layer + "post_attention_layernorm", h, false);
  b.once("model.norm.weight", 1, h);
  if (!c.flag("tie_word_embeddings", false)) b.once("lm_head.weight", c.count("vocab_size"), h);
  return b.weights;
}

std::vector<WeightGroup> falcon(const Config& c) {
  const std::size_t h = c.count("hidden_size"), heads = c.heads(h);
  const bool grouped = c.flag("new_decoder_architecture", false);
  const std::size_t kv = grouped                       ? c.count("num_kv_heads", heads)
                         : c.flag("multi_query", true) ? 1
                                                       : heads;
  const bool bias = c.flag("bias", false), parallel = c.flag("parallel_attn", true);
  Builder b(c.count("num_hidden_layers"));
  b.once("transformer.word_embeddings.weight", c.count("vocab_size"), h);
  const std::string layer = "transformer.h.*.";
  b.linear(layer + "self_attention.query_key_value", (heads + 2 * kv) * (h / heads), h, bias);
  b.linear(layer + "self_attention.dense", h, h, bias);
  b.linear(layer + "mlp.dense_h_to_4h", c.count("ffn_hidden_size", 4 * h), h, bias);
  b.linear(layer + "mlp.dense_4h_to_h", h, c.count("ffn_hidden_size", 4 * h), bias);
  const bool two = grouped ? c.count("num_ln_in_parallel_attn", 2) == 2 : !parallel;
  b.norm(layer + (grouped && two ? "ln_attn" : "input_layernorm"), h, true);
  if (two) b.norm(layer + (grouped ? "ln_mlp" : "post_attention_layernorm"), h, true);
  b.once("transformer.ln_f.weight", 1, h);
  b.once("transformer.ln_f.bias", 1, h);
  if (!c.flag("tie_word_embeddings", true)) b.once("lm_head.weight", c.count("vocab_size"), h);
  return b.weights;
}

const std::map<std::string, std::function<std::vector<WeightGroup>(const Config&)>>& families() {
  static const std::map<std::string, std::function<std::vector<WeightGroup>(const Config&)>> all{
      {"bert", bert},     {"roberta", bert}, {"gpt2", gpt2},    {"llama", llama},
      {"mistral", llama}, {"qwen2", llama},  {"falcon", falcon}};
  return all;
}

struct Known {
  const char* name;
  const char* config;  // what of the published config.json decides shapes
};

constexpr Known kKnown[] = {
    {"bert-base", R"({"model_type":"bert","hidden_size":768,"num_hidden_layers":12,
      "intermediate_size":3072,"vocab_size":30522,"max_position_embeddings":512,"type_vocab_size":2})"},
    {"roberta-large", R"({"model_type":"roberta","hidden_size":1024,"num_hidden_layers":24,
      "intermediate_size":4096,"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1})"},
    {"gpt2",
     R"({"model_type":"gpt2","n_embd":768,"n_layer":12,"n_positions":1024,"vocab_size":50257})"},
    {"llama-2-7b", R"({"model_type":"llama","hidden_size":4096,"intermediate_size":11008,
      "num_attention_heads":32,"num_hidden_layers":32,"vocab_size":32000})"},
    {"llama-2-13b", R"({"model_type":"llama","hidden_size":5120,"intermediate_size":13824,
      "num_attention_heads":40,"num_hidden_layers":40,"vocab_size":32000})"},
    {"llama-2-70b", R"({"model_type":"llama","hidden_size":8192,"intermediate_size":28672,
      "num_attention_heads":64,"num_key_value_heads":8,"num_hidden_layers":80,"vocab_size":32000})"},
    {"falcon-180b", R"({"model_type":"falcon","hidden_size":14848,"num_attention_heads":232,
      "num_hidden_layers":80,"num_kv_heads":8,"vocab_size":65024,"new_decoder_architecture":true,
      "tie_word_embeddings":false})"},
    {"gpt3-175b",
     R"({"model_type":"gpt2","n_embd":12288,"n_layer":96,"n_positions":2048,"vocab_size":50257})"},
};

Architecture from_config(std::string name, const Config& config) {
  const std::string type = config.text("model_type");
  const auto family = families().find(type);
  if (family == families().end()) {
    std::vector<std::string> names;
    for (const auto& each : families()) names.push_back(each.first);
    throw DataError(fmt::format("{}: model_type '{}' is not known here; there are {}",
                                config.where(), type, join(names, ", ")));
  }
  return {std::move(name), family->second(config)};
}

}  // namespace

std::size_t Architecture::numbers() const {
  std::size_t all = 0;
  for (const WeightGroup& group : weights) all += group.numbers();
  return all;
}

std::vector<std::string> known_models() {
  std::vector<std::string> names;
  for (const Known& known : kKnown) names.emplace_back(known.name);
  return names;
}

Architecture read_architecture(const std::string& name_or_path) {
  for (const Known& known : kKnown) {
    if (name_or_path == known.name) {
      return from_config(name_or_path, Config(Json::parse(known.config), known.name));
    }
  }
  if (name_or_path.find(".json") == std::string::npos &&
      name_or_path.find('/') == std::string::npos) {
    throw std::invalid_argument("--model: no model '" + name_or_path + "'; there are " +
                                join(known_models(), ", ") + ", or the path of a config.json" +
                                did_you_mean(name_or_path, known_models()));
  }
  std::ifstream file(name_or_path);
  if (!file) throw DataError(name_or_path + ": cannot be read");
  Json json = Json::parse(file, nullptr, false);
  if (json.is_discarded()) throw DataError(name_or_path + ": is not JSON");
  return from_config(name_or_path, Config(std::move(json), name_or_path));
}

}  // namespace gradview
