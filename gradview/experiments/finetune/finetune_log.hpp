// The logs of a fine-tuning: log.csv, a row for every step, and metrics.csv, one for every evaluation.
//
//     step,loss,accuracy,lr,tokens,train_seconds
//
// loss and accuracy are of the batch, before the step; the seconds are those of all steps so far.
#pragma once

#include <chrono>
#include <string>

#include "gradview/experiments/finetune/finetune_settings.hpp"
#include "gradview/experiments/metrics.hpp"
#include "gradview/models/loss.hpp"

namespace gradview {

class FineTuneLog {
 public:
  FineTuneLog(RunFolder& folder, const FineTuneSettings& settings, std::size_t trainable);

  // What an earlier call wrote of steps from `step` on, it wrote after its last checkpoint: gone.
  void cut(std::size_t step);
  void step(std::size_t step, const Score& score, double lr, std::size_t tokens, double seconds);
  void evaluation(std::size_t step, const Score& score, double lr, std::size_t state_bytes,
                  double train_seconds);
  void flush();
  void keep();  // log.csv is there, with or without rows

 private:
  RunFolder& folder_;
  Run run_;
  std::size_t trainable_;
  std::string rows_;
  bool started_ = false, measured_ = false;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(),
                                        flushed_ = begin_;
};

}  // namespace gradview
