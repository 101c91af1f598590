// A Hugging Face folder: config.json and model.safetensors, or the shards that
// model.safetensors.index.json names. F64, F32, F16 and BF16 are read; written is what Real is.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gradview/io/hf_config.hpp"
#include "gradview/io/safetensors.hpp"
#include "gradview/models/classifier.hpp"
#include "gradview/models/language_model.hpp"

namespace gradview {

class HfFolder {
 public:
  explicit HfFolder(std::string folder);  // DataError; reads no values yet

  const std::string& path() const { return folder_; }
  const HfConfig& config() const { return config_; }
  std::vector<std::string> files() const;  // with the tensors

  // Throw DataError where the checkpoint is of another kind. `labels`: 0 for those of the config.
  Classifier classifier(Pooling pooling = Pooling::cls, std::size_t labels = 0) const;
  LanguageModel language_model() const;

  // The values of a model's weights(). Names may lack the prefix of the trunk ("bert."), and norms be
  // called gamma and beta. What the head needs and the files lack is drawn (N(0, initializer_range²),
  // biases 0) and named in `fresh`. DataError on a missing or unknown tensor or another shape.
  Weights read(const std::vector<WeightSpec>& specs, std::uint64_t seed = 0,
               std::vector<std::string>* fresh = nullptr) const;
  // One of them. DataError where the files lack it, or have it in another shape.
  Matrix read(const WeightSpec& spec) const;

  // A folder that transformers loads, with the tokenizer's files of this one. It appears whole, or
  // not at all: IoError, also where it is there already.
  // `labels` names the classes, or is empty.
  void write(const std::string& folder, const Classifier& model, const Weights& weights,
             const std::vector<std::string>& labels = {}) const;
  void write(const std::string& folder, const LanguageModel& model, const Weights& weights) const;

 private:
  struct Found {
    const SafetensorsReader* file;
    const Tensor* tensor;
  };
  void open_shards();
  const Found* find(const std::string& name) const;
  void write(const std::string& folder, const std::vector<WeightSpec>& specs,
             const Weights& weights, const std::string& config) const;

  std::string folder_, config_text_;
  HfConfig config_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::map<std::string, Found> tensors_;
};

}  // namespace gradview
