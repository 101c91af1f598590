// Comparison: from the runs of all curves to what may be said about them.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/metrics.hpp"
#include "gradview/experiments/statistics.hpp"

namespace gradview {

struct Evidence {  // one curve's runs
  Curve curve;
  std::string listed;                // its spec as the user wrote it, where that has a knob
  double lr = 0;                     // the one reported
  std::vector<const Run*> reported;  // in order of seed
  std::vector<const Run*> all;       // everything that was tried, and the reported ones
  double step_seconds = std::numeric_limits<double>::quiet_NaN();
  std::optional<double> predicted_ratio;  // steps to target over full's, from theory
  std::vector<double> best_accuracy;      // per seed, where the optimum is known
};

struct SeedResult {
  std::uint64_t seed;
  double accuracy,
      loss;           // test, at the end; accuracy NaN and loss as it came where the run diverged
  double difference;  // of accuracy to the reference under the same seed
  double steps_to_target;         // ∞ where it is missed
  double old_accuracy, old_loss;  // at the end, validation of the old task
};

// The old task's validation at the highest new-task validation accuracy that both this curve and
// the reference reach, the best over all learning rates and logged steps; mean over the seeds that
// saw every learning rate.
struct Matched {
  double new_accuracy, old_accuracy, old_loss, reference_old_accuracy, reference_old_loss;
  std::size_t seeds;
};

struct Line {  // of the table
  Curve curve;
  std::string listed;
  double lr;
  std::vector<SeedResult> seeds;
  Interval accuracy, difference;
  double adjusted_p;
  std::string verdict;     // "reference" for the first curve under an optimizer
  double steps_to_target;  // median
  double step_ratio;       // to the reference's
  std::optional<double> predicted_ratio;
  double seconds_to_target, step_seconds;
  std::optional<Matched> matched;
  double old_accuracy;  // mean at the end: confounded with how much was learnt
  std::size_t trainable, state_bytes, diverged;
  double second_order;  // ‖retract − lift‖/‖lift‖, mean over the logged steps
  std::optional<double> best_accuracy;
};

// One method against its control, under one optimizer: an effect that the control has too is not
// the method's.
struct Contrast {
  std::string method, control, optimizer;
  Interval difference;  // of test accuracy, method − control, paired by seed
  double adjusted_p;
  std::string verdict;
};

struct Table {
  std::vector<Line> lines;  // in the order of the curves
  std::vector<Contrast> contrasts;
  // Per optimizer: the accuracy that steps are counted to.
  std::vector<std::pair<std::string, double>> targets;
  std::size_t full_adam_bytes = 0;  // Adam's state for full-rank training of the same matrices
};

// Which share of Adam's state for full-rank training a state is: "below 5 %", "5 to 25 %",
// "25 to 100 %" (100 % excluded), "100 % or more".
std::string state_group(std::size_t state_bytes, std::size_t full_adam_bytes);

// contrasts: pairs of method and control, as they are listed. Holm's correction is over all differences of the table,
// contrasts included. margin: in accuracy (0.005 is half a point). The reference of an optimizer is
// its first curve; the target lies `below_reference` under the median of its final validation
// accuracy.
Table compare(const std::vector<Evidence>& evidence,
              const std::vector<std::pair<std::string, std::string>>& contrasts, double margin,
              double below_reference = 0.02);

}  // namespace gradview
