// Sweep: the runs of an experiment, each done once, on several threads, kept in metrics.csv and
// layers.csv as they finish.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "gradview/experiments/driver/progress.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/experiments/training.hpp"

namespace gradview {

struct RunKey {
  Curve curve;
  double lr;
  std::uint64_t seed;
  bool test;  // a reported run, which ends with a row of the test split
};

class Sweep {
 public:
  Sweep(TaskFamily family, TrainingSettings settings, std::size_t jobs, RunFolder& folder,
        Progress& progress)
      : family_(std::move(family)),
        settings_(std::move(settings)),
        jobs_(jobs),
        folder_(folder),
        progress_(progress) {}

  void prepare(
      const std::vector<std::uint64_t>& seeds);  // makes (or loads) what the tasks start from
  const Task& task(std::uint64_t seed) const { return *tasks_.at(seed); }

  // Takes over the finished runs of the folder's metrics.csv, where there is one.
  void restore(const std::vector<std::uint64_t>& reported_seeds);
  void run(const std::vector<RunKey>& keys);  // those that are not there yet
  const Run& result(const RunKey& key) const;
  // Writes metrics.csv and layers.csv anew, in this order: what an uninterrupted call on one thread
  // would have written.
  void write(const std::vector<RunKey>& order) const;

 private:
  static RunId id(const Curve& curve, double lr, std::uint64_t seed) {
    return {curve.method, curve.optimizer, lr, seed};
  }
  void keep(const Run& run);  // in the files; the caller holds the mutex
  void write_layers(const std::vector<const Run*>& runs) const;

  TaskFamily family_;
  TrainingSettings settings_;
  std::size_t jobs_;
  RunFolder& folder_;
  Progress& progress_;
  std::map<std::uint64_t, std::shared_ptr<const Task>> tasks_;
  std::map<std::uint64_t, StartScores> starts_;
  std::map<RunId, Run> runs_;
  bool started_metrics_ = false, started_layers_ = false;
  std::mutex mutex_;
};

}  // namespace gradview
