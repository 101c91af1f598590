// One projector of a replay: its own weights, moved by its own optimizer, and the file they end in.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/adaptation.hpp"
#include "gradview/experiments/replay/replay_files.hpp"

namespace gradview {

class Mean {  // of what is a number
 public:
  void add(double x) {
    if (std::isnan(x)) return;
    sum_ += x;
    ++count_;
  }
  double value() const {
    return count_ > 0 ? sum_ / static_cast<double>(count_)
                      : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  double sum_ = 0;
  std::size_t count_ = 0;
};

class ReplayRun {
 public:
  // Adapts what `recorded` names; the other weights are frozen. `start` must outlive the run.
  // std::invalid_argument where the rank fits no matrix or the optimizer has no meaning here.
  ReplayRun(std::string projector, Optimizer::Settings settings, const Weights& start,
            const std::vector<std::string>& recorded, InitialFactors* factors);
  ReplayRun(const ReplayRun&) = delete;  // the optimizer points at the weights
  ReplayRun& operator=(const ReplayRun&) = delete;

  const std::string& projector() const { return projector_; }
  const std::vector<Planned>& planned() const { return plan_; }

  // Final NAME of every weight, NAME.FIELD of every field; traced also NAME.trace [steps + 1, m,
  // n]. DataError where two of these names are the same.
  void open(const std::string& path, bool traced, const Metadata& metadata);

  // Before the first step: adds share · g to what a method that starts from a gradient gets.
  bool wants_prepass() const { return optimizer_.wants_prepass(); }
  void prepare(const std::string& name, const Gradient& g, double share) {
    optimizer_.prepare(name, g, share);
  }

  void observe();  // the step to come
  void collect(const std::string& name, const Gradient& g);
  void step();

  // The step after which a weight was no longer finite; the file is gone then, and nothing may
  // follow.
  struct Divergence {
    std::string weight;
    std::size_t step;
  };
  const std::optional<Divergence>& divergence() const { return divergence_; }

  struct Seen {
    Observation observation;
    double captured;
  };
  const std::vector<Seen>& seen() const {
    return seen_;
  }  // of the last observed step, in the order of `recorded`
  double mean_gain() const { return gain_.value(); }  // over all observed steps and weights
  double mean_cosine() const { return cosine_.value(); }

  void write();   // all that is left to write
  void commit();  // the file appears

  double distance() const;  // ‖W − W₀‖ over all weights
  std::size_t state_bytes() const { return optimizer_.state_bytes(); }

 private:
  void plan(const Spec& spec);
  void trace(std::size_t step);
  void record_seen();

  std::string projector_;
  Optimizer::Settings settings_;
  const Weights& start_;
  Weights adapted_;
  std::vector<Planned> plan_;
  Optimizer optimizer_;
  std::optional<SafetensorsWriter> file_;
  bool traced_ = false, observing_ = false;
  std::vector<Seen> seen_;
  Mean gain_, cosine_;
  std::optional<Divergence> divergence_;
};

}  // namespace gradview
