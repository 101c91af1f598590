// What a fine-tuning hands out: scores, predictions, the adapter, the merged model.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/experiments/finetune/finetune_run.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/io/peft_projector.hpp"

namespace gradview {
namespace {

constexpr std::size_t kEvaluated = 32;  // texts at a time

std::vector<std::size_t> range(std::size_t first, std::size_t last) {
  std::vector<std::size_t> rows(last - first);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

}  // namespace

Score FineTuning::evaluate(const std::string& predict) const {
  const auto file = predict.empty() ? nullptr : predictions(predict);
  MeanScore mean;
  for (std::size_t first = 0; first < eval_->size(); first += kEvaluated) {
    const auto rows = range(first, std::min(first + kEvaluated, eval_->size()));
    const TextBatch texts = batch(*eval_, rows);
    if (!file) {
      mean.add(model_->score(weights_, texts), texts.units());
      continue;
    }
    const Matrix logits = model_->logits(weights_, texts.tokens);
    write_logits(texts, first, logits, *file);
    if (!scored()) continue;
    mean.add(model_->score_of(logits, texts), texts.units());
  }
  if (file) file->commit();
  return mean.value();
}

// Of the texts' classes, where a file has as many.
std::vector<std::string> FineTuning::label_names() const {
  for (const TokenFile* file : {train(), eval()}) {
    if (model_->classifies() && file && file->label_names().size() == model_->outputs()) {
      return file->label_names();
    }
  }
  return {};
}

std::unique_ptr<SafetensorsWriter> FineTuning::predictions(const std::string& path) const {
  std::vector<std::size_t> shape{eval_->size(), model_->outputs()};
  if (!model_->classifies()) shape.insert(shape.begin() + 1, eval_->length());
  Metadata metadata;
  if (const auto names = label_names(); !names.empty()) {
    metadata["labels"] = nlohmann::json(names).dump();
  }
  const SafetensorsWriter::Shapes shapes{{"logits", shape}};
  return std::make_unique<SafetensorsWriter>(path, shapes, metadata);
}

void FineTuning::write_logits(const TextBatch& texts, std::size_t first, const Matrix& logits,
                              SafetensorsWriter& to) const {
  const std::size_t classes = model_->outputs();
  if (model_->classifies())
    return to.write("logits", first * classes, logits.data(), logits.size());
  for (std::size_t b = 0; b < texts.tokens.sequences.size(); ++b) {  // 0 where there is no token
    Matrix whole = zeros({eval_->length(), classes});
    const Sequence& s = texts.tokens.sequences[b];
    for (std::size_t t = s.first; t < s.first + s.count; ++t) {
      const auto position = static_cast<std::size_t>(texts.tokens.positions[t]);
      std::copy_n(logits.data() + t * classes, classes, whole.data() + position * classes);
    }
    to.write("logits", (first + b) * whole.size(), whole.data(), whole.size());
  }
}

void FineTuning::find_adapter_form() {
  for (const TunedWeight& planned : plan_) {
    if ((planned.adapted || planned.saved) && planned.name == model_->tied()) {
      no_adapter_ = planned.module + " is the head as well (tied), which PEFT would not adapt";
      return;
    }
    if (!planned.adapted) continue;
    const std::string method = peft_method(*planned.projector, optimizer_.projector(planned.name));
    if (method.empty() || (!method_.empty() && method != method_)) {
      no_adapter_ = "PEFT has no adapter like " + to_string(*planned.projector);
      return;
    }
    method_ = method;
    if (settings_.mutated_base && !product_on_mutated_base(optimizer_.projector(planned.name))) {
      throw std::invalid_argument(
          "--mutated-base is for starts with a product of their own (pissa, olora, lora_ga, "
          "symmetric), and " +
          to_string(*planned.projector) + " leaves the base as it is");
    }
  }
  if (method_.empty()) {
    no_adapter_ = "no matrix is adapted";
    return;
  }
  try {
    const Adapter made = adapter();
    if (made.bias != "none" && !peft::tuner_of(method_).turned) {
      no_adapter_ = "PEFT's " + method_ + " trains no biases";
    } else {
      check_peft(made, specs_);
    }
  } catch (const std::invalid_argument& error) {
    no_adapter_ = error.what();
  }
}

Adapter FineTuning::adapter() {
  if (!settings_.adapts()) return *given_;
  Adapter out;
  out.method = method_;
  out.task_type = model_->classifies() ? "SEQ_CLS" : "CAUSAL_LM";
  out.base = settings_.mutated_base ? settings_.folder.out + "/base" : settings_.model;
  out.dropout = settings_.lora_dropout;
  out.bias = given_ && settings_.bias == "none" ? given_->bias : settings_.bias;
  for (const TunedWeight& planned : plan_) {
    if (planned.adapted) {
      out.rslora = out.rslora || (peft::tuner_of(method_).type == std::string("LORA") &&
                                  peft_rslora(*planned.projector));
    }
  }
  for (const TunedWeight& planned : plan_) {
    if (planned.adapted && settings_.mutated_base) {
      out.modules.push_back(
          lora_module(planned.module, *product_on_mutated_base(optimizer_.projector(planned.name)),
                      out.rslora));
    } else if (planned.adapted) {
      out.modules.push_back(peft_module(out, planned.module, *planned.projector, planned.shape,
                                        optimizer_.projector(planned.name)));
    }
    if (planned.saved) out.saved.emplace_back(planned.name, weights_[planned.name]);
    if (planned.bias) out.biases.emplace_back(planned.name, weights_[planned.name]);
  }
  return out;
}

void FineTuning::settle() {
  if (!no_adapter_.empty() || settings_.in_four_bits() || settings_.mutated_base) return;
  const Adapter made = adapter();
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (plan_[i].adapted) weights_[specs_[i].name] = hf_.read(specs_[i]);
  }
  merge(made, weights_, model_->tied());
}

void FineTuning::write_adapter(const std::string& folder) { write_peft(folder, adapter(), specs_); }

void FineTuning::write_model(const std::string& folder, const Weights& weights) const {
  if (model_->classifies()) {
    hf_.write(folder, model_->classifier(), weights, label_names());
  } else {
    hf_.write(folder, model_->language_model(), weights);
  }
}

void FineTuning::write_merged(const std::string& folder) const { write_model(folder, weights_); }

void FineTuning::write_mutated_base(const std::string& folder) {
  Weights base = weights_;
  for (const TunedWeight& planned : plan_) {
    if (!planned.adapted) continue;
    const auto [u, v, s] = *product_on_mutated_base(optimizer_.projector(planned.name));
    add_matmul(base[planned.name], -s, u, v);
  }
  write_model(folder, base);
}

}  // namespace gradview
