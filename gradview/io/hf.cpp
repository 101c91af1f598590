#include "gradview/io/hf.hpp"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string_view>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;

const char* const kWeights = "model.safetensors";
const char* const kIndex = "model.safetensors.index.json";
const char* const kTokenizer[] = {"tokenizer.json",
                                  "tokenizer_config.json",
                                  "vocab.txt",
                                  "vocab.json",
                                  "merges.txt",
                                  "special_tokens_map.json",
                                  "added_tokens.json",
                                  "tokenizer.model",
                                  "generation_config.json"};

std::string replaced(std::string name, std::string_view end, std::string_view with) {
  if (!name.ends_with(end)) return "";
  return name.replace(name.size() - end.size(), end.size(), with);
}

// Under which names a file may have a weight of ours.
std::vector<std::string> names_of(const std::string& name) {
  std::vector<std::string> names = {name};
  for (const char* prefix : {"bert.", "transformer.", "model."}) {
    if (name.starts_with(prefix)) names.push_back(name.substr(std::string_view(prefix).size()));
  }
  for (std::size_t i = 0, count = names.size(); i < count; ++i) {
    const std::string gamma = replaced(names[i], "LayerNorm.weight", "LayerNorm.gamma");
    const std::string beta = replaced(names[i], "LayerNorm.bias", "LayerNorm.beta");
    if (!gamma.empty()) names.push_back(gamma);
    if (!beta.empty()) names.push_back(beta);
  }
  return names;
}

// Buffers, and heads of other tasks: what a model may leave unread.
bool dispensable(std::string_view name) {
  for (const char* end : {"embeddings.position_ids", "embeddings.token_type_ids", ".attn.bias",
                          ".attn.masked_bias", "rotary_emb.inv_freq"}) {
    if (name.ends_with(end)) return true;
  }
  for (const char* start : {"cls.", "classifier.", "score.", "lm_head.", "qa_outputs.", "pooler.",
                            "bert.pooler.", "multiple_choice_head."}) {
    if (name.starts_with(start)) return true;
  }
  return false;
}

std::vector<std::size_t> stored_shape(const WeightSpec& spec) {
  if (spec.stored == Stored::vector) return {spec.shape.cols};
  if (spec.stored == Stored::transposed) return {spec.shape.cols, spec.shape.rows};
  return {spec.shape.rows, spec.shape.cols};
}

}  // namespace

HfFolder::HfFolder(std::string folder) : folder_(std::move(folder)) {
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored)) {
    throw DataError(folder_ + ": is no folder, expected one with config.json and " + kWeights);
  }
  const std::string path = folder_ + "/config.json";
  config_text_ = read_text(path);
  config_ = parse_hf_config(path, config_text_);
  open_shards();
}

std::vector<std::string> HfFolder::files() const {
  std::vector<std::string> paths;
  for (const auto& file : files_) paths.push_back(file->path());
  return paths;
}

void HfFolder::open_shards() {
  const auto open = [&](const std::string& name) {
    files_.push_back(std::make_unique<SafetensorsReader>(folder_ + "/" + name));
    return files_.back().get();
  };
  if (fs::exists(folder_ + "/" + kWeights)) {
    const SafetensorsReader* file = open(kWeights);
    for (const Tensor& t : file->tensors()) tensors_[t.name] = {file, &t};
    return;
  }
  const std::string path = folder_ + "/" + kIndex;
  if (!fs::exists(path)) {
    const bool pickled = fs::exists(folder_ + "/pytorch_model.bin");
    throw DataError(folder_ + ": has neither " + kWeights + " nor " + kIndex +
                    (pickled ? "; pytorch_model.bin is not read, save it as safetensors" : ""));
  }
  const auto index = nlohmann::json::parse(read_text(path), nullptr, false);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    throw DataError(path + ": is not a JSON object with a 'weight_map'");
  }
  std::map<std::string, const SafetensorsReader*> shards;
  for (const auto& [name, shard] : map->items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (file.empty() || file.find('/') != file.npos) {
      throw DataError(path + ": the shard of " + quoted_name(name) + " is not a file's name");
    }
    if (!shards.contains(file)) shards[file] = open(file);
    const Tensor* tensor = shards[file]->find(name);
    if (!tensor) {
      throw DataError(folder_ + "/" + file + ": has no tensor " + quoted_name(name) +
                      ", which the index says");
    }
    tensors_[name] = {shards[file], tensor};
  }
}

const HfFolder::Found* HfFolder::find(const std::string& name) const {
  for (const std::string& candidate : names_of(name)) {
    const auto found = tensors_.find(candidate);
    if (found != tensors_.end()) return &found->second;
  }
  return nullptr;
}

Classifier HfFolder::classifier(Pooling pooling, std::size_t labels) const {
  if (config_.model_type != "bert") {
    throw DataError(folder_ + ": model_type '" + config_.model_type +
                    "' has no classifier here; there is bert");
  }
  Classifier model{config_.trunk, labels > 0 ? labels : config_.labels.size(), pooling};
  model.dropout = config_.classifier_dropout;
  return model;
}

LanguageModel HfFolder::language_model() const {
  if (!config_.trunk.causal) {
    throw DataError(folder_ + ": model_type '" + config_.model_type +
                    "' is no causal language model; those are gpt2, llama");
  }
  return {config_.trunk, config_.tied};
}

Matrix HfFolder::read(const WeightSpec& spec) const {
  const Found* found = find(spec.name);
  if (!found) throw DataError(folder_ + ": has no tensor " + quoted_name(spec.name));
  if (found->tensor->shape != stored_shape(spec)) {
    throw DataError(found->file->path() + ": tensor " + quoted_name(found->tensor->name) +
                    " has shape " + to_string(found->tensor->shape) + ", expected " +
                    to_string(stored_shape(spec)));
  }
  const bool turned = spec.stored == Stored::transposed;
  Matrix value = uninitialized(turned ? Shape{spec.shape.cols, spec.shape.rows} : spec.shape);
  found->file->read(*found->tensor, 0, value.size(), value.data());
  return turned ? transpose(value) : value;
}

Weights HfFolder::read(const std::vector<WeightSpec>& specs, std::uint64_t seed,
                       std::vector<std::string>* fresh) const {
  std::set<const Tensor*> used;
  std::vector<const Found*> sources;
  for (const WeightSpec& spec : specs) {
    const Found* found = find(spec.name);
    sources.push_back(found);
    // A head of another size is another task's.
    const bool replaceable = spec.stage > config_.trunk.stages();
    if (found && found->tensor->shape != stored_shape(spec) && replaceable) {
      used.insert(found->tensor);
      sources.back() = nullptr;
    } else if (found) {
      used.insert(found->tensor);
    } else if (spec.stage < config_.trunk.stages()) {
      throw DataError(folder_ + ": has no tensor " + quoted_name(spec.name));
    } else if (!config_.tied && config_.trunk.causal) {
      throw DataError(folder_ + ": has no tensor " + quoted_name(spec.name) +
                      ", and tie_word_embeddings is false");
    }
  }
  std::string unknown;
  for (const auto& [name, found] : tensors_) {
    if (used.contains(found.tensor) || dispensable(name)) continue;
    unknown += (unknown.empty() ? "" : ", ") + quoted_name(name);
    if (unknown.size() > 300) break;
  }
  if (!unknown.empty()) {
    throw DataError(folder_ + ": has tensors that a " + config_.model_type +
                    " model has not: " + unknown);
  }
  Weights weights;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const WeightSpec& spec = specs[i];
    Matrix value;
    if (sources[i]) {
      value = read(spec);
    } else {
      const Stream stream(seed, Purpose::model, spec.name);
      value = spec.stored == Stored::vector ? zeros(spec.shape)
                                            : normal(spec.shape, config_.initializer_range, stream);
      if (fresh) fresh->push_back(spec.name);
    }
    weights.add(spec.name, std::move(value));
  }
  return weights;
}

void HfFolder::write(const std::string& folder, const Classifier& model, const Weights& weights,
                     const std::vector<std::string>& labels) const {
  if (model.pooling != Pooling::cls) {
    throw std::invalid_argument(
        folder + ": a classifier that pools by mean cannot be written; transformers' pools by cls");
  }
  write(folder, model.weights(), weights,
        rewritten_hf_config(config_text_, "BertForSequenceClassification", model.labels, labels));
}

void HfFolder::write(const std::string& folder, const LanguageModel& model,
                     const Weights& weights) const {
  const char* name = config_.model_type == "gpt2" ? "GPT2LMHeadModel" : "LlamaForCausalLM";
  const auto &rope = model.trunk.rope, &read = config_.trunk.rope;
  const bool stretched = rope && read && rope->factor != read->factor;
  const std::string text =
      stretched ? with_rope_scaling(config_text_, rope->factor, model.trunk.positions)
                : config_text_;
  write(folder, model.weights(), weights, rewritten_hf_config(text, name, 0));
}

void HfFolder::write(const std::string& folder, const std::vector<WeightSpec>& specs,
                     const Weights& weights, const std::string& config) const {
  if (fs::exists(folder)) throw IoError(folder + ": is there already");
  const std::string work = folder + "." + std::to_string(getpid()) + ".tmp";
  std::error_code error;
  if (!fs::create_directory(work, error)) {
    throw IoError(work + ": cannot be made: " + (error ? error.message() : "is there already"));
  }
  try {
    SafetensorsWriter::Shapes shapes;
    for (const WeightSpec& spec : specs) shapes.emplace_back(spec.name, stored_shape(spec));
    SafetensorsWriter writer(work + "/" + kWeights, shapes);
    for (const WeightSpec& spec : specs) {
      const Matrix& value = weights[spec.name];
      require_shape("HfFolder::write", spec.name.c_str(), shape_of(value), spec.shape);
      if (spec.stored == Stored::transposed) {
        const Matrix turned = transpose(value);
        writer.write(spec.name, 0, turned.data(), turned.size());
      } else {
        writer.write(spec.name, 0, value.data(), value.size());
      }
    }
    writer.commit();
    write_atomically(work + "/config.json", config);
    for (const char* name : kTokenizer) {
      const std::string from = folder_ + "/" + name;
      if (fs::is_regular_file(from)) write_atomically(work + "/" + name, read_text(from));
    }
    fs::rename(work, folder, error);
    if (error) throw IoError(folder + ": cannot be made: " + error.message());
  } catch (...) {
    fs::remove_all(work, error);
    throw;
  }
}

}  // namespace gradview
