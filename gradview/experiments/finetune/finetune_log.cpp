#include "gradview/experiments/finetune/finetune_log.hpp"

#include <filesystem>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

const std::vector<std::string> kColumns{"step", "loss",   "accuracy",
                                        "lr",   "tokens", "train_seconds"};

}  // namespace

FineTuneLog::FineTuneLog(RunFolder& folder, const FineTuneSettings& settings, std::size_t trainable)
    : folder_(folder), trainable_(trainable) {
  run_.curve = {settings.projector.empty() ? "adapter" : settings.projector, settings.optimizer};
  run_.lr = settings.lr.value_or(0);
  run_.seed = settings.seed;
}

void FineTuneLog::cut(std::size_t step) {
  const std::string log = folder_.file("log.csv"), metrics = folder_.file("metrics.csv");
  if (!folder_.resuming()) return;
  if (std::filesystem::exists(log)) {
    const CsvTable table = read_csv(log);
    if (table.header != kColumns) throw CheckpointError(log + ": has other columns");
    std::string kept = csv_line(kColumns);
    for (const auto& row : table.rows) {
      if (static_cast<std::size_t>(parse_integer(row[0]).value_or(0)) < step) kept += csv_line(row);
    }
    folder_.write("log.csv", kept);
    started_ = true;
  }
  if (!std::filesystem::exists(metrics)) return;
  std::string kept = metrics_header();
  for (Run& run : read_metrics(metrics)) {
    std::erase_if(run.rows, [&](const Row& row) { return row.step > step || step == 0; });
    kept += metrics_text(run);
  }
  folder_.write("metrics.csv", kept);
  measured_ = true;
}

void FineTuneLog::step(std::size_t step, const Score& score, double lr, std::size_t tokens,
                       double seconds) {
  rows_ += csv_line({std::to_string(step), exact(score.loss), exact(score.accuracy), exact(lr),
                     std::to_string(tokens), exact(seconds)});
  if (std::chrono::steady_clock::now() - flushed_ > std::chrono::seconds(1)) flush();
}

void FineTuneLog::evaluation(std::size_t step, const Score& score, double lr,
                             std::size_t state_bytes, double train_seconds) {
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin_;
  run_.rows = {{.step = step,
                .split = "validation",
                .loss = score.loss,
                .accuracy = score.accuracy,
                .grad_norm = {},
                .update_norm = {},
                .gain = {},
                .cosine = {},
                .state_bytes = state_bytes,
                .train_seconds = train_seconds,
                .wall_seconds = wall.count(),
                .diverged = false,
                .trainable = trainable_,
                .lr_used = lr,
                .second_order = {}}};
  folder_.append_rows("metrics.csv", (measured_ ? "" : metrics_header()) + metrics_text(run_));
  measured_ = true;
}

void FineTuneLog::flush() {
  flushed_ = std::chrono::steady_clock::now();
  if (rows_.empty()) return;
  keep();
  folder_.append_rows("log.csv", rows_);
  rows_.clear();
}

void FineTuneLog::keep() {
  if (!started_) folder_.append_rows("log.csv", csv_line(kColumns));
  started_ = true;
}

}  // namespace gradview
