// Reading PEFT's adapters.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/io/safetensors.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

using nlohmann::json;

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 5); ++i) {
    text += (i ? ", " : "") + quoted_name(names[i]);
  }
  return names.size() > 5 ? text + " and " + std::to_string(names.size() - 5) + " more" : text;
}

class Reader {
 public:
  Reader(const std::string& folder, const std::vector<WeightSpec>& specs)
      : path_(folder + "/" + peft::config_file), specs_(specs), places_(peft::places_of(specs)) {
    config_ = json::parse(read_text(path_), nullptr, false);
    if (config_.is_discarded() || !config_.is_object()) fail("is not a JSON object");
    file_.emplace(folder + "/" + peft::tensors_file);
  }

  Adapter read() {
    Adapter adapter;
    const peft::Tuner& tuner = choose(adapter);
    adapter.task_type = text("task_type");
    adapter.base = text("base_model_name_or_path");
    adapter.bias = text("bias", "none");
    const std::vector<std::string> saved = words("modules_to_save");
    for (const auto& [path, place] : places_) {
      if (!targeted(path) || holds(saved, path)) continue;
      read_module(adapter, tuner, path, place);
    }
    for (const WeightSpec& spec : specs_) {
      const std::string module = spec.name.substr(0, spec.name.rfind('.'));
      if (holds(saved, module)) {
        take_whole(adapter.saved, spec, spec.name);
      } else if (spec.name.ends_with(".bias") && has_bias(adapter, module)) {
        // PEFT calls the layer that it wraps base_layer.
        const bool wrapped =
            file_->find(std::string(peft::prefix) + module + ".base_layer.bias") != nullptr;
        take_whole(adapter.biases, spec, wrapped ? module + ".base_layer.bias" : spec.name);
      }
    }
    finish();
    if (adapter.modules.empty()) fail("'target_modules' match nothing of the model");
    return adapter;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw DataError(path_ + ": " + what); }

  const json* value(const std::string& key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string text(const std::string& key, const std::string& otherwise = "") const {
    const json* v = value(key);
    if (v && !v->is_string()) fail("'" + key + "' is not a string");
    return v ? v->get<std::string>() : otherwise;
  }
  bool flag(const std::string& key) const {
    const json* v = value(key);
    if (v && !v->is_boolean()) fail("'" + key + "' is not true or false");
    return v && v->get<bool>();
  }
  std::vector<std::string> words(const std::string& key) const {
    const json* v = value(key);
    if (!v) return {};
    std::vector<std::string> all;
    if (!v->is_array()) fail("'" + key + "' is not a list");
    for (const json& word : *v) {
      if (!word.is_string()) fail("'" + key + "' is not a list of names");
      all.push_back(word.get<std::string>());
    }
    return all;
  }
  static double number_or_nan(const json& v) { return v.is_number() ? v.get<double>() : NAN; }
  double positive(const std::string& what, double number) const {
    if (!(number > 0 && number < 1e9)) fail("'" + what + "' is not a positive number");
    return number;
  }
  std::regex pattern(const std::string& text) const {
    try {
      return std::regex(text);
    } catch (const std::regex_error&) {
      fail("no regular expression: " + quoted_name(text));
    }
  }

  const peft::Tuner& choose(Adapter& adapter) const {
    const std::string type = text("peft_type");
    const bool dora = flag("use_dora");
    adapter.rslora = flag("use_rslora");
    for (const char* key :
         {"lora_bias", "use_qalora", "use_bdlora", "megatron_config", "layer_replication",
          "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "arrow_config",
          "velora_config", "monteclora_config", "kasa_config", "use_effective_conv2d",
          "rank_dropout_scale"}) {
      const json* v = value(key);
      const bool off = !v || (v->is_boolean() && !v->get<bool>()) ||
                       ((v->is_array() || v->is_object()) && v->empty());
      if (!off) fail("'" + std::string(key) + "' is not supported");
    }
    // Starts that change the base weights: the factors alone say too little.
    if (const json* start = value("init_lora_weights"); start && start->is_string()) {
      const std::string kind = start->get<std::string>();
      if (kind.starts_with("pissa") || kind == "olora" || kind == "loftq" || kind == "corda" ||
          kind == "lora_ga") {
        fail("'init_lora_weights': '" + kind +
             "' goes with changed base weights; let PEFT convert it when it saves");
      }
    }
    if (type == "ADALORA" && value("rank_pattern") && !value("rank_pattern")->empty()) {
      fail("'rank_pattern' of an AdaLoRA adapter is not supported");
    }
    for (const peft::Tuner& t : peft::tuners()) {
      if (t.type != type || (std::string(t.method) == "dora") != dora) continue;
      adapter.method = t.method;
      return t;
    }
    fail("peft_type '" + type + "' is not supported; there are LORA, ADALORA, LOHA, LOKR, VERA");
  }

  // Of names that modules end with, or in: PEFT's rule for lists.
  static bool holds(const std::vector<std::string>& names, const std::string& path) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return path == name || path.ends_with("." + name);
    });
  }
  bool targeted(const std::string& path) const {
    const json* targets = value("target_modules");
    if (!targets) fail("has no 'target_modules'");
    const bool special = value("layers_to_transform") || value("exclude_modules");
    if (special) {  // its tensors tell
      return std::any_of(file_->tensors().begin(), file_->tensors().end(), [&](const Tensor& t) {
        return t.name.starts_with(std::string(peft::prefix) + path + ".") &&
               (t.name.find(".lora_") != t.name.npos || t.name.find(".hada_") != t.name.npos ||
                t.name.find(".lokr_") != t.name.npos);
      });
    }
    if (!targets->is_string()) return holds(words("target_modules"), path);
    const std::string all = targets->get<std::string>();
    if (all == "all-linear") {
      return !places_.at(path).embedding && path != "lm_head" && path != "classifier";
    }
    return std::regex_match(path, pattern(all));
  }
  bool has_bias(const Adapter& adapter, const std::string& module) const {
    if (adapter.bias == "all") return true;
    if (adapter.bias == "none") return false;
    if (adapter.bias != "lora_only") fail("'bias' is " + quoted_name(adapter.bias));
    return std::any_of(adapter.modules.begin(), adapter.modules.end(),
                       [&](const Adapter::Module& m) { return m.path == module; });
  }
  // The number for one module: the first pattern that fits its path, else the common one.
  double number_for(const std::string& key, const char* patterns, const std::string& path,
                    double otherwise) const {
    double found = value(key) ? number_or_nan(*value(key)) : otherwise;
    if (const json* by = value(patterns)) {
      if (!by->is_object()) fail("'" + std::string(patterns) + "' is not an object");
      for (const auto& [name, number] : by->items()) {
        if (!std::regex_match(path, pattern("(.*\\.)?(" + name + ")$"))) continue;
        found = number_or_nan(number);
        break;
      }
    }
    return positive(key, found);
  }

  const Tensor* take(const std::string& name) {
    const Tensor* t = file_->find(std::string(peft::prefix) + name);
    if (t) used_.insert(t);
    return t;
  }
  Matrix values(const Tensor& t, const peft::Part& part) const {
    if (t.shape.size() != (part.vector ? 1U : 2U)) {
      throw DataError(file_->path() + ": tensor " + quoted_name(t.name) + " has shape " +
                      to_string(t.shape) + ", expected " + (part.vector ? "one" : "two") +
                      " dimensions");
    }
    const std::size_t columns = part.vector ? 1 : t.shape[1];
    Matrix read = uninitialized({t.shape[0], columns});
    file_->read(t, 0, read.size(), read.data());
    return part.transposed ? transpose(read) : read;
  }
  void take_whole(std::vector<std::pair<std::string, Matrix>>& to, const WeightSpec& spec,
                  const std::string& key) {
    const Tensor* t = take(key);
    if (!t) {
      missing_.push_back(std::string(peft::prefix) + key);
      return;
    }
    std::vector<std::size_t> shape = {spec.shape.rows, spec.shape.cols};
    if (spec.stored == Stored::transposed) std::swap(shape[0], shape[1]);
    if (spec.stored == Stored::vector) shape.erase(shape.begin());
    if (t->shape != shape) {
      throw DataError(file_->path() + ": tensor " + quoted_name(t->name) + " has shape " +
                      to_string(t->shape) + ", expected " + to_string(shape));
    }
    const bool turned = spec.stored == Stored::transposed;
    Matrix read = uninitialized(turned ? Shape{spec.shape.cols, spec.shape.rows} : spec.shape);
    file_->read(*t, 0, read.size(), read.data());
    to.emplace_back(spec.name, turned ? transpose(read) : std::move(read));
  }
  void read_module(Adapter& adapter, const peft::Tuner& tuner, const std::string& path,
                   const peft::Place& place) {
    Adapter::Module module{path, {}, 0, 0};
    for (const peft::Forms& forms : peft::sides_of(tuner, place)) {
      const peft::Parts* chosen = &forms.front();
      for (const peft::Parts& form : forms) {
        if (file_->find(std::string(peft::prefix) + path + "." + form.front().suffix))
          chosen = &form;
      }
      for (const peft::Part& part : *chosen) {
        const std::string key = path + "." + part.suffix;
        const Tensor* t = take(key);
        if (!t) missing_.push_back(std::string(peft::prefix) + key);
        if (t) module.factors[part.field] = values(*t, part);
      }
    }
    const bool patterned = adapter.method != "adalora";
    module.rank = static_cast<std::size_t>(
        number_for(tuner.rank, patterned ? "rank_pattern" : "", path, patterned ? 8 : 12));
    module.alpha = static_cast<double>(module.rank);
    if (tuner.alpha) {
      module.alpha = number_for(tuner.alpha, patterned ? "alpha_pattern" : "", path, 8);
    }
    if (adapter.method == "vera") take_frames(module, place);
    if (missing_.empty()) check_shapes(adapter, module, place);
    adapter.modules.push_back(std::move(module));
  }
  void take_frames(Adapter::Module& module, const peft::Place& place) {
    for (const bool left : {true, false}) {
      const Tensor* t = file_->find(peft::vera_frames[left ? 0 : 1]);
      if (!t) {
        missing_.emplace_back(peft::vera_frames[left ? 0 : 1]);
        continue;
      }
      used_.insert(t);
      const Matrix whole = values(*t, {left ? "u" : "v", ""});
      const Shape part =
          left ? Shape{place.shape.rows, module.rank} : Shape{module.rank, place.shape.cols};
      if (part.rows > whole.shape()[0] || part.cols > whole.shape()[1]) {
        throw DataError(file_->path() + ": tensor " + quoted_name(t->name) + " has shape " +
                        to_string(t->shape) + ", expected at least " + to_string(part));
      }
      module.factors[left ? "u" : "v"] = columns(rows(whole, 0, part.rows), 0, part.cols);
    }
  }
  // Tried out on a matrix of zeros, which says what disagrees.
  void check_shapes(const Adapter& adapter, const Adapter::Module& module,
                    const peft::Place& place) const {
    if (const auto v = module.factors.find("v"); v != module.factors.end()) {
      if (v->second.shape()[0] != module.rank) {
        throw DataError(file_->path() + ": module " + quoted_name(module.path) + " has rank " +
                        std::to_string(v->second.shape()[0]) + ", its configuration says " +
                        std::to_string(module.rank));
      }
    }
    Adapter one;
    one.method = adapter.method;
    one.rslora = adapter.rslora;
    one.modules = {module};
    Weights weights;
    weights.add(module.path + ".weight", zeros(place.shape));
    try {
      merge(one, weights);
    } catch (const std::invalid_argument& error) {
      throw DataError(file_->path() + ": module " + quoted_name(module.path) + " of shape " +
                      to_string(place.shape) + ": " + error.what());
    }
  }
  void finish() const {
    std::vector<std::string> unexpected;
    for (const Tensor& t : file_->tensors()) {
      if (!used_.contains(&t)) unexpected.push_back(t.name);
    }
    if (missing_.empty() && unexpected.empty()) return;
    std::string what = file_->path() + ": ";
    if (!missing_.empty()) what += "missing: " + listed(missing_);
    if (!unexpected.empty()) {
      what += (missing_.empty() ? "unexpected: " : "; unexpected: ") + listed(unexpected);
    }
    throw DataError(what);
  }

  std::string path_;
  const std::vector<WeightSpec>& specs_;
  std::map<std::string, peft::Place> places_;
  json config_;
  std::optional<SafetensorsReader> file_;
  std::set<const Tensor*> used_;
  std::vector<std::string> missing_;
};

}  // namespace

Adapter read_peft(const std::string& folder, const std::vector<WeightSpec>& specs) {
  return Reader(folder, specs).read();
}

}  // namespace gradview
