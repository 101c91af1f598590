#include "gradview/experiments/finetune/finetune_run.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/peft_format.hpp"
#include "gradview/io/peft_projector.hpp"
#include "gradview/models/architectures.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

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
  trunk.group = settings_.group;
  if (settings_.rope_factor) {
    if (!trunk.rope) {
      throw std::invalid_argument("--rope-factor: the positions of " + settings_.model +
                                  " are not rotary");
    }
    stretch(trunk, *settings_.rope_factor);
  }
  specs_ = model_->weights();
  for (const TokenFile* file : {train(), eval()}) {
    if (!file) continue;
    file->require_fits(model_->trunk());
    if (file == eval() && !scored() && !settings_.predict.empty()) continue;
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

std::size_t FineTuning::trained_numbers() const {
  std::size_t sum = 0;
  for (const TunedWeight& planned : plan_) sum += planned.trained;
  return sum;
}

std::vector<std::size_t> FineTuning::next_rows(BatchOrder& order, std::size_t step) const {
  if (!settings_.no_shuffle) return order.next(settings_.batch_size);
  std::vector<std::size_t> rows;
  for (std::size_t i = 0; i < settings_.batch_size; ++i) {
    rows.push_back((i + step * settings_.batch_size) % train_->size());
  }
  return rows;
}

TextBatch FineTuning::batch(const TokenFile& file, std::span<const std::size_t> rows) const {
  Tokens tokens = file.batch(rows, model_->keeps_first());
  std::vector<std::int32_t> labels;
  for (std::size_t i = 0; model_->classifies() && i < rows.size(); ++i) {
    labels.push_back(file.labelled() ? file.labels()[rows[i]] : no_label);
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

void FineTuning::visit(const StateVisit& visit) {
  for (auto& [name, value] : weights_) {
    if (trained_.contains(name)) visit("weight:" + name, value);
  }
  optimizer_.fields([&](std::string_view name, Matrix& value, Role) {
    visit("optimizer:" + std::string(name), value);
  });
}

}  // namespace gradview
