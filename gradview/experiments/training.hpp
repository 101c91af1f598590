// One training run: a curve at one learning rate under one seed.
#pragma once

#include "gradview/experiments/adaptation.hpp"
#include "gradview/experiments/layers.hpp"
#include "gradview/experiments/metrics.hpp"
#include "gradview/experiments/task.hpp"

namespace gradview {

struct TrainingSettings {
  std::size_t steps = 300, batch_size = 128, eval_every = 25, accumulate = 1;
  std::size_t init_batches = 8;  // of the pre-pass, for methods that start from a gradient
  std::string schedule = "cosine";
  double clip = std::numeric_limits<double>::infinity();
  std::string target = ".", also;  // as in Adaptation; also: empty for none
  std::vector<Override> overrides;
  bool train_rest = false, train_biases = false;
  Watch watch = {};  // further rows for layers.csv
};

Adaptation adaptation_of(const std::string& method, const TrainingSettings& settings);

struct StartScores {  // what every run of a seed begins with, evaluated once
  Score validation, old;
};
StartScores evaluate_start(const Task& task);

// Trains from task.start(). Rows at step 0, every eval_every steps and at the end; where `test`, a
// test row at the end, and rows for layers.csv. A run that leaves the finite numbers ends there, marked as diverged. Throws
// Interrupted on a signal.
Run train(const Task& task, const StartScores& start, const Curve& curve, double lr,
          std::uint64_t seed, bool test, const TrainingSettings& settings);

// Seconds of one training step of each curve (median of `repeats`), taken in turn on an otherwise
// idle machine.
std::vector<double> step_seconds(const Task& task,
                                 const std::vector<std::pair<Curve, double>>& curves,
                                 std::uint64_t seed, const TrainingSettings& settings,
                                 std::size_t repeats);

// The order of examples: a fresh permutation per epoch, batches cut from the concatenation of all
// of them.
class BatchOrder {
 public:
  BatchOrder(std::uint64_t seed, std::size_t examples, std::string name = "")
      : seed_(seed), examples_(examples), name_(std::move(name)) {}
  std::vector<std::size_t> next(std::size_t size);

 private:
  std::uint64_t seed_;
  std::size_t examples_, epoch_ = 0;
  std::string name_;               // of the order: one seed has several
  std::vector<std::size_t> rest_;  // of the present epoch, taken from the back
};

}  // namespace gradview
