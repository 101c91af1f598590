#include "gradview/experiments/finetune/finetune_run.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/io/peft_projector.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kEvaluated = 32;  // texts at a time

std::vector<std::size_t> range(std::size_t first, std::size_t last) {
  std::vector<std::size_t> rows(last - first);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

// The classes of the head that an adapter has saved; 0 where it has none.
std::size_t saved_labels(const std::string& folder, const std::string& head) {
  const SafetensorsReader file(folder + "/" + peft::tensors_file);
  const Tensor* t = file.find(peft::prefix + head);
  return t && t->shape.size() == 2 ? t->shape[0] : 0;
}

}  // namespace

FineTuning::FineTuning(const FineTuneSettings& settings)
    : settings_(settings), hf_(settings.model), optimizer_(settings.optimizer_settings()) {
  read_data();
  make_model();
  if (!settings.adapter.empty()) given_ = read_peft(settings.adapter, specs_);
  weights_ = hf_.read(specs_, settings.seed, &fresh_);
  plan_ = plan_finetune(settings, *model_, given_ ? &*given_ : nullptr, fresh_);
  if (settings.in_four_bits()) quantise();
  if (settings.adapts() || settings.in_four_bits()) {
    adapt();
    if (settings.adapts()) find_adapter_form();
  } else if (given_) {
    merge(*given_, weights_, model_->tied());
  }
  if (train_) order_ = std::make_unique<BatchOrder>(settings.seed, train_->size());
}

void FineTuning::read_data() {
  if (settings_.adapts()) train_.emplace(settings_.train);
  if (!settings_.eval.empty()) eval_.emplace(settings_.eval);
  if (!train_ || !eval_ || train_->label_names().empty() || eval_->label_names().empty()) return;
  if (settings_.classifies() && train_->label_names() != eval_->label_names()) {
    throw DataError(eval_->path() + ": its labels have other names than those of " +
                    train_->path() + "; scripts/tokenize --labels-of numbers them alike");
  }
}

std::size_t FineTuning::count_labels() const {
  if (settings_.labels) return *settings_.labels;
  if (!settings_.adapter.empty()) {
    const std::size_t saved = saved_labels(settings_.adapter, "classifier.weight");
    if (saved > 0) return saved;
  }
  if (train_ && !train_->label_names().empty()) return train_->classes();
  return std::max(hf_.config().labels.size(), train_ ? train_->classes() : 0);
}

void FineTuning::make_model() {
  if (settings_.classifies()) {
    const Pooling pooling = settings_.pooling == "cls" ? Pooling::cls : Pooling::mean;
    Classifier classifier = hf_.classifier(pooling, count_labels());
    if (settings_.no_dropout) classifier.dropout = 0;
    model_.emplace(std::move(classifier));
  } else {
    model_.emplace(hf_.language_model());
  }
  Transformer& trunk = model_->trunk();
  trunk.compute = settings_.compute.resolve("finetune");
  if (settings_.no_dropout) {
    trunk.embedding_dropout = trunk.attention_dropout = trunk.hidden_dropout = 0;
  }
  specs_ = model_->weights();
  for (const TokenFile* file : {train(), eval()}) {
    if (!file) continue;
    file->require_fits(model_->trunk());
    if (settings_.classifies()) {
      file->require_labels(0, model_->classifier().labels);
    } else {
      file->require_next();
    }
  }
  if (settings_.predict.empty() || settings_.classifies()) return;
  constexpr double kMost = 2e9;
  const double bytes = static_cast<double>(eval_->size() * eval_->length()) *
                       static_cast<double>(model_->trunk().vocabulary * sizeof(Real));
  if (bytes > kMost) {
    throw std::invalid_argument("--predict: the logits of every token would take " +
                                std::to_string(static_cast<long>(bytes / 1e9)) +
                                " GB; give an --eval of fewer or shorter texts");
  }
}

void FineTuning::adapt() {
  if (given_) {
    for (const auto* tensors : {&given_->saved, &given_->biases}) {
      for (const auto& [name, value] : *tensors) weights_[name] = value;
    }
  }
  const std::string softmax =
      model_->classifies() ? model_->head().front() : model_->language_model().head_weight();
  for (TunedWeight& planned : plan_) {
    if (!planned.projector) continue;
    attach(planned, planned.name == softmax && model_->tied().empty());
    if (planned.trained > 0) trained_.insert(planned.name);
  }
  if (settings_.adapts() && trained_.empty()) {
    throw std::invalid_argument("--projector: nothing is trained");
  }
}

// The matrices of linear layers, those apart that are trained whole or are tables or heads.
void FineTuning::quantise() {
  const FourBit type = four_bit(settings_.frozen);
  const std::vector<std::string> head = model_->head();
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const WeightSpec& spec = specs_[i];
    const bool kept =
        spec.stored == Stored::vector || spec.stage == 0 || plan_[i].saved ||
        (plan_[i].projector && !plan_[i].adapted) ||
        std::find(head.begin(), head.end(), spec.name) != head.end() ||
        (!model_->classifies() && spec.name == model_->language_model().head_weight());
    if (kept) continue;
    weights_.quantise(spec.name, type);
    plan_[i].note = settings_.frozen;
  }
}

void FineTuning::attach(TunedWeight& planned, bool before_softmax) {
  static const Matrix none = zeros({0, 0});
  const QuantisedMatrix* quantised = weights_.quantised(planned.name);
  Matrix* w = quantised ? nullptr : &weights_[planned.name];
  const Site site{.name = planned.name,
                  .weight = w ? *w : none,
                  .seed = settings_.seed,
                  .steps = settings_.steps,
                  .before_softmax = before_softmax,
                  .quantised = quantised};
  auto projector = make_projector(*planned.projector, site);
  const auto note = [&](const std::string& more) {
    if (!more.empty()) planned.note += (planned.note.empty() ? "" : "; ") + more;
  };
  note(projector->note());
  if (given_ && planned.adapted) {
    for (const Adapter::Module& module : given_->modules) {
      if (module.path != planned.module) continue;
      take_up(*given_, module, *planned.projector, *projector, planned.shape, w);
      note("from the adapter");
    }
  }
  const double dropout = planned.adapted ? settings_.lora_dropout : 0;
  if (dropout > 0 && !projector->update()) {
    throw std::invalid_argument("--lora-dropout: " + to_string(*planned.projector) +
                                " has no product that could stay beside W, as lora has");
  }
  if (quantised) {
    optimizer_.add(planned.name, *quantised, std::move(projector), before_softmax);
  } else {
    const bool vector = planned.shape.rows == 1;
    optimizer_.add(planned.name, *w, std::move(projector), before_softmax, !vector);
  }
  if (quantised || dropout > 0) {
    weights_.put_beside(planned.name, {&optimizer_.projector(planned.name), dropout});
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

std::size_t FineTuning::trained_numbers() const {
  std::size_t sum = 0;
  for (const TunedWeight& planned : plan_) sum += planned.trained;
  return sum;
}

std::vector<std::size_t> FineTuning::next_rows(BatchOrder& order, std::size_t step) const {
  if (!settings_.no_shuffle) return order.next(settings_.batch_size);
  std::vector<std::size_t> rows = range(0, settings_.batch_size);
  for (std::size_t& row : rows) row = (row + step * settings_.batch_size) % train_->size();
  return rows;
}

TextBatch FineTuning::batch(const TokenFile& file, std::span<const std::size_t> rows) const {
  Tokens tokens = file.batch(rows, model_->keeps_first());
  std::vector<std::int32_t> labels;
  for (std::size_t i = 0; model_->classifies() && i < rows.size(); ++i) {
    labels.push_back(file.labels()[rows[i]]);
  }
  return model_->batch(std::move(tokens), labels);
}

Score FineTuning::collect(const TextBatch& batch, std::size_t step, const Collect& collect) const {
  const Training training{trained_, Dropout{settings_.seed, step}};
  return model_->loss_and_gradients(weights_, batch, training, collect);
}

void FineTuning::prepare() {
  if (!optimizer_.wants_prepass()) return;
  BatchOrder order(settings_.seed, train_->size(), "prepass");
  const double share = 1 / static_cast<double>(settings_.init_batches);
  for (std::size_t i = 0; i < settings_.init_batches; ++i) {
    collect(
        batch(*train_, next_rows(order, i)), i,
        [&](const std::string& name, const Gradient& g) { optimizer_.prepare(name, g, share); });
  }
}

FineTuning::Done FineTuning::step() {
  const std::size_t step = optimizer_.steps_done();
  const TextBatch texts = batch(*train_, next_rows(*order_, step));
  const Score score = collect(texts, step, [&](const std::string& name, const Gradient& g) {
    optimizer_.collect(name, g);
  });
  if (std::isfinite(score.loss)) optimizer_.step();
  return {score, texts.tokens.rows()};
}

void FineTuning::skip_to(std::size_t step) {
  for (std::size_t i = 0; i < step && !settings_.no_shuffle; ++i) {
    order_->next(settings_.batch_size);
  }
}

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

void FineTuning::visit(const StateVisit& visit) {
  for (auto& [name, value] : weights_) {
    if (trained_.contains(name)) visit("weight:" + name, value);
  }
  optimizer_.fields([&](std::string_view name, Matrix& value, Role) {
    visit("optimizer:" + std::string(name), value);
  });
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
