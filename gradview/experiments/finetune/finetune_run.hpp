// A fine-tuning in memory: the model, what is trained of it, the optimizer, and the adapter that it
// makes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/finetune/finetune_plan.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/io/checkpoint.hpp"
#include "gradview/io/hf.hpp"
#include "gradview/io/token_file.hpp"

namespace gradview {

class FineTuning {
 public:
  // Reads all that is given. DataError and std::invalid_argument where the parts do not fit.
  explicit FineTuning(const FineTuneSettings& settings);
  FineTuning(const FineTuning&) = delete;  // the optimizer points at the weights
  FineTuning& operator=(const FineTuning&) = delete;

  const std::vector<TunedWeight>& planned() const { return plan_; }
  std::size_t trained_numbers() const;
  const TextModel& model() const { return *model_; }
  const TokenFile* train() const { return train_ ? &*train_ : nullptr; }
  const TokenFile* eval() const { return eval_ ? &*eval_ : nullptr; }
  // Has --eval labels? Without them it can be predicted all the same.
  bool scored() const { return eval_ && (eval_->labelled() || !model_->classifies()); }
  // Why there will be no adapter but a merged model; empty where there will be one.
  const std::string& no_adapter() const { return no_adapter_; }

  std::size_t steps_done() const { return optimizer_.steps_done(); }
  double lr() const { return optimizer_.lr(); }  // of the step to come
  std::size_t state_bytes() const { return optimizer_.state_bytes(); }

  struct Done {
    Score score;
    std::size_t tokens;
  };
  void prepare();  // before the first step, for methods that start from a gradient
  Done step();     // where the loss is not finite, nothing moves
  // Of --eval, NaN where it is not scored; its logits go to the file `predict`, where one is named.
  Score evaluate(const std::string& predict = "") const;

  void visit(const StateVisit& visit);  // all that a checkpoint needs
  void skip_to(std::size_t step);       // in the order of the texts
  // After the last step: W becomes what the saved adapter makes of the checkpoint, without the rounding
  // that adding up the steps left in it.
  void settle();
  void write_adapter(const std::string& folder);
  void write_merged(const std::string& folder) const;
  void write_mutated_base(const std::string& folder);

 private:
  void read_data();
  std::size_t count_labels() const;
  std::vector<std::string> label_names() const;
  void make_model();
  void adapt();
  void quantise();
  void attach(TunedWeight& planned, bool before_softmax);
  Adapter adapter();
  void write_model(const std::string& folder, const Weights& weights) const;
  void find_adapter_form();
  std::vector<std::size_t> next_rows(BatchOrder& order, std::size_t step) const;
  TextBatch batch(const TokenFile& file, std::span<const std::size_t> rows) const;
  std::unique_ptr<SafetensorsWriter> predictions(const std::string& path) const;
  void write_logits(const TextBatch& texts, std::size_t first, const Matrix& logits,
                    SafetensorsWriter& to) const;
  Score collect(const TextBatch& batch, std::size_t step, const Collect& collect) const;

  const FineTuneSettings& settings_;
  HfFolder hf_;
  std::optional<TokenFile> train_, eval_;
  std::optional<TextModel> model_;
  std::vector<WeightSpec> specs_;
  std::vector<std::string> fresh_;
  Weights weights_;
  std::optional<Adapter> given_;
  std::vector<TunedWeight> plan_;
  Names trained_;
  Optimizer optimizer_;
  std::unique_ptr<BatchOrder> order_;
  std::string method_, no_adapter_;
};

}  // namespace gradview
