#include "gradview/io/hf_config.hpp"

#include <nlohmann/json.hpp>
#include <optional>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/models/architectures.hpp"

namespace gradview {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLargest = std::uint64_t{1} << 31;
constexpr std::uint64_t kMostLayers = 10'000;

// The fields of one JSON object, with errors that say where.
class Fields {
 public:
  Fields(const std::string& path, const json& object) : path_(path), object_(object) {}

  [[noreturn]] void fail(const std::string& what) const { throw DataError(path_ + ": " + what); }

  const json* find(const char* key) const {  // null where it is absent or null
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  bool has(const char* key) const { return object_.contains(key); }

  std::size_t size(const char* key, std::optional<std::size_t> otherwise = {},
                   std::uint64_t largest = kLargest) const {
    const json* value = find(key);
    if (!value && otherwise) return *otherwise;
    if (!value) fail(std::string("has no '") + key + "'");
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() == 0 ||
        value->get<std::uint64_t>() > largest) {
      fail(std::string("'") + key + "' is " + shown(*value) + ", expected a number from 1 to " +
           std::to_string(largest));
    }
    return value->get<std::size_t>();
  }

  double number(const char* key, double otherwise, double low, double high) const {
    const json* value = find(key);
    if (!value) return otherwise;
    const double got = value->is_number() ? value->get<double>() : low - 1;
    if (!(got >= low && got <= high)) {
      fail(std::string("'") + key + "' is " + shown(*value) + ", expected a number from " +
           exact(low) + " to " + exact(high));
    }
    return got;
  }
  double rate(const char* key, double otherwise) const { return number(key, otherwise, 0, 0.999); }

  bool flag(const char* key, bool otherwise) const {
    const json* value = find(key);
    if (value && !value->is_boolean()) {
      fail(std::string("'") + key + "' is " + shown(*value) + ", expected true or false");
    }
    return value ? value->get<bool>() : otherwise;
  }

  std::string word(const char* key, const std::string& otherwise) const {
    const json* value = find(key);
    if (value && !value->is_string()) {
      fail(std::string("'") + key + "' is " + shown(*value) + ", expected a string");
    }
    return value ? value->get<std::string>() : otherwise;
  }

  // Where the model would compute something else.
  void refuse_unless(const char* key, bool supported) const {
    if (!supported)
      fail(std::string("'") + key + "': " + shown(object_[key]) + " is not supported");
  }

 private:
  static std::string shown(const json& value) {
    std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 60) + "..." : text;
  }

  const std::string& path_;
  const json& object_;
};

Activation activation(const Fields& f, const char* key, const char* otherwise) {
  static const std::map<std::string, Activation> known = {
      {"gelu", Activation::gelu},
      {"gelu_new", Activation::gelu_tanh},
      {"gelu_pytorch_tanh", Activation::gelu_tanh},
      {"relu", Activation::relu},
      {"silu", Activation::silu},
      {"swish", Activation::silu},
      {"tanh", Activation::tanh}};
  const auto found = known.find(f.word(key, otherwise));
  f.refuse_unless(key, found != known.end());
  return found->second;
}

std::int32_t padding(const Fields& f, std::int32_t otherwise) {
  const bool null = f.has("pad_token_id") && !f.find("pad_token_id");
  return null ? -1 : static_cast<std::int32_t>(f.number("pad_token_id", otherwise, -1, 2e9));
}

void set_width(const Fields& f, Transformer& t, const char* width, const char* heads) {
  t.width = f.size(width);
  t.heads = t.kv_heads = f.size(heads);
  if (t.width % t.heads != 0) {
    f.fail(std::string("'") + width + "' " + std::to_string(t.width) + " is no multiple of '" +
           heads + "' " + std::to_string(t.heads));
  }
  t.head_width = t.width / t.heads;
}

void read_bert(const Fields& f, HfConfig& c) {
  Transformer& t = c.trunk = bert();
  set_width(f, t, "hidden_size", "num_attention_heads");
  t.vocabulary = f.size("vocab_size");
  t.positions = f.size("max_position_embeddings", 512);
  t.types = f.size("type_vocab_size", 2);
  t.padding = padding(f, 0);
  t.layers = f.size("num_hidden_layers", {}, kMostLayers);
  t.hidden = f.size("intermediate_size");
  t.activation = activation(f, "hidden_act", "gelu");
  t.eps = f.number("layer_norm_eps", 1e-12, 0, 1);
  t.embedding_dropout = t.hidden_dropout = f.rate("hidden_dropout_prob", 0.1);
  t.attention_dropout = f.rate("attention_probs_dropout_prob", 0.1);
  c.classifier_dropout = f.rate("classifier_dropout", t.hidden_dropout);
  const char* places = "position_embedding_type";
  f.refuse_unless(places, f.word(places, "absolute") == "absolute");
  f.refuse_unless("is_decoder", !f.flag("is_decoder", false));
  f.refuse_unless("add_cross_attention", !f.flag("add_cross_attention", false));
}

void read_gpt2(const Fields& f, HfConfig& c) {
  Transformer& t = c.trunk = gpt2();
  set_width(f, t, "n_embd", "n_head");
  t.vocabulary = f.size("vocab_size");
  t.positions = f.size("n_positions", 1024);
  t.layers = f.size("n_layer", {}, kMostLayers);
  t.hidden = f.size("n_inner", 4 * t.width);
  t.activation = activation(f, "activation_function", "gelu_new");
  t.eps = f.number("layer_norm_epsilon", 1e-5, 0, 1);
  t.embedding_dropout = f.rate("embd_pdrop", 0.1);
  t.attention_dropout = f.rate("attn_pdrop", 0.1);
  t.hidden_dropout = f.rate("resid_pdrop", 0.1);
  c.tied = f.flag("tie_word_embeddings", true);
  f.refuse_unless("scale_attn_weights", f.flag("scale_attn_weights", true));
  const char* by_layer = "scale_attn_by_inverse_layer_idx";
  f.refuse_unless(by_layer, !f.flag(by_layer, false));
  f.refuse_unless("add_cross_attention", !f.flag("add_cross_attention", false));
}

// transformers 5: rope_parameters has theta and all. 4: rope_theta, and rope_scaling, whose type is
// called rope_type, or type before.
Rope read_rope(const std::string& path, const Fields& f) {
  constexpr double kMost = 1e12;
  Rope rope{f.number("rope_theta", 10000, 1, kMost), 1};
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* object = f.find(key);
    if (!object) continue;
    if (!object->is_object()) f.fail(std::string("'") + key + "' is not an object");
    const std::string where = path + ": " + key;
    const Fields inner(where, *object);
    rope.theta = inner.number("rope_theta", rope.theta, 1, kMost);
    const char* kind = inner.find("rope_type") ? "rope_type" : "type";
    const std::string type = inner.word(kind, "default");
    inner.refuse_unless(kind, type == "default" || type == "linear");
    const char* part = "partial_rotary_factor";
    inner.refuse_unless(part, inner.number(part, 1, 0, 1) == 1);
    if (type == "linear" && !inner.find("factor")) inner.fail("has no 'factor'");
    if (type == "linear") rope.factor = inner.number("factor", 1, 1, kMost);
    break;
  }
  return rope;
}

void read_llama(const std::string& path, const Fields& f, HfConfig& c) {
  Transformer& t = c.trunk = llama();
  t.width = f.size("hidden_size");
  t.heads = f.size("num_attention_heads");
  t.kv_heads = f.size("num_key_value_heads", t.heads);
  if (!f.find("head_dim")) set_width(f, t, "hidden_size", "num_attention_heads");
  t.head_width = f.size("head_dim", t.width / t.heads);
  t.kv_heads = f.size("num_key_value_heads", t.heads);
  if (t.heads % t.kv_heads != 0) {
    f.fail("'num_attention_heads' " + std::to_string(t.heads) +
           " is no multiple of 'num_key_value_heads' " + std::to_string(t.kv_heads));
  }
  if (t.head_width % 2 != 0) f.fail("heads of odd width cannot be turned");
  t.vocabulary = f.size("vocab_size");
  t.positions = f.size("max_position_embeddings", 2048);
  t.padding = padding(f, -1);
  t.layers = f.size("num_hidden_layers", {}, kMostLayers);
  t.hidden = f.size("intermediate_size");
  t.activation = activation(f, "hidden_act", "silu");
  t.eps = f.number("rms_norm_eps", 1e-6, 0, 1);
  t.rope = read_rope(path, f);
  t.attention_bias = t.output_bias = f.flag("attention_bias", false);
  t.hidden_bias = f.flag("mlp_bias", false);
  t.attention_dropout = f.rate("attention_dropout", 0);
  c.tied = f.flag("tie_word_embeddings", false);
  f.refuse_unless("rope_interleaved", !f.flag("rope_interleaved", false));
}

std::vector<std::string> read_labels(const Fields& f) {
  const json* names = f.find("id2label");
  std::vector<std::string> labels;
  if (!names) {
    for (std::size_t i = 0; i < f.size("num_labels", 2, 1'000'000); ++i) {
      labels.push_back("LABEL_" + std::to_string(i));
    }
    return labels;
  }
  if (!names->is_object() || names->empty()) f.fail("'id2label' is not an object of labels");
  labels.resize(names->size());
  for (const auto& [key, name] : names->items()) {
    const auto number = parse_integer(key);
    const bool fits = number && *number >= 0 && static_cast<std::size_t>(*number) < labels.size();
    if (!fits || !name.is_string()) {
      f.fail("'id2label' does not name the labels 0 to " + std::to_string(labels.size() - 1));
    }
    labels[static_cast<std::size_t>(*number)] = name.get<std::string>();
  }
  return labels;
}

json parsed(const std::string& path, const std::string& text) {
  json object = json::parse(text, nullptr, false);
  if (object.is_discarded() || !object.is_object()) {
    throw DataError(path + ": is not a JSON object");
  }
  return object;
}

}  // namespace

HfConfig parse_hf_config(const std::string& path, const std::string& text) {
  const json object = parsed(path, text);
  const Fields f(path, object);
  HfConfig c;
  c.model_type = f.word("model_type", "");
  f.refuse_unless("quantization_config", !f.find("quantization_config"));
  if (c.model_type == "bert") {
    read_bert(f, c);
  } else if (c.model_type == "gpt2") {
    read_gpt2(f, c);
  } else if (c.model_type == "llama") {
    read_llama(path, f, c);
  } else {
    f.fail("model_type '" + c.model_type + "' is not supported; there are bert, gpt2, llama");
  }
  c.initializer_range = f.number("initializer_range", 0.02, 0, 10);
  c.labels = read_labels(f);
  return c;
}

std::string with_rope_scaling(const std::string& text, double factor, std::size_t positions) {
  json object = parsed("config.json", text);
  const bool new_form = object.contains("rope_parameters") && object["rope_parameters"].is_object();
  json& scaling = object[new_form ? "rope_parameters" : "rope_scaling"];
  if (!scaling.is_object()) scaling = json::object();
  scaling["rope_type"] = "linear";
  scaling["factor"] = factor;
  scaling.erase("type");
  object["max_position_embeddings"] = positions;
  return object.dump();
}

std::string rewritten_hf_config(const std::string& text, const std::string& architecture,
                                std::size_t labels, const std::vector<std::string>& given) {
  json object = parsed("config.json", text);
  object["architectures"] = {architecture};
  const char* dtype = object.contains("dtype") ? "dtype" : "torch_dtype";
  object[dtype] = sizeof(Real) == 4 ? "float32" : "float64";
  const auto old = object.find("id2label");
  const std::size_t had = old == object.end() ? 2 : old->size();
  if (labels > 0 && (labels != had || given.size() == labels)) {
    json names = json::object(), numbers = json::object();
    for (std::size_t i = 0; i < labels; ++i) {
      const std::string name = given.size() == labels ? given[i] : "LABEL_" + std::to_string(i);
      names[std::to_string(i)] = name;
      numbers[name] = i;
    }
    object["id2label"] = names;
    object["label2id"] = numbers;
  }
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace gradview
