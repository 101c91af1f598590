// What each way of extending a context comes to: the test loss and the loss by position of every
// seed, and the verdicts on LongLoRA's claims.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/context/timing.hpp"

namespace gradview {

struct Extended {  // one curve with one attention in training
  std::string attention, name, method;
  double lr = 0;
  std::size_t trainable = 0;
  std::vector<double> loss;  // test, in nats per byte, per seed; NaN where it diverged
  std::vector<std::vector<double>> buckets;  // of positions, per seed
  std::vector<std::vector<double>> cut;      // likewise, of what sees the old length only
};

enum Way { kFull, kLora, kMore, kWays };            // full fine-tuning, LoRA, LoRA and the others
enum Attends { kEverywhere, kInGroups, kAttends };  // in training

struct Extension {
  // Before training: over the new length, with positions scaled and not; over the old length, not.
  std::vector<double> scaled, unscaled, cut;
  std::size_t old_length = 0, new_length = 0, bucket = 0;
  Extended curves[kAttends][kWays];
};

struct ContextClaim {
  std::string text, verdict, evidence;  // holds | does not | undecided
};

// From 95 % intervals alone. margin: nats that count as none.
std::vector<ContextClaim> judge_context(const Extension& e, const std::vector<TimedLength>& times,
                                        double margin);

double mean_of(const std::vector<double>& values);
std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b);
// "holds" where all of the interval is above `than`, "does not" where all is below, else "undecided".
std::string above(const Interval& interval, double than);

}  // namespace gradview
