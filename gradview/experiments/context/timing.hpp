// Seconds of a training step against the length of its sequences, full and shifted sparse attention in
// turn, so that what disturbs the one disturbs the other.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/statistics.hpp"
#include "gradview/models/language_model.hpp"

namespace gradview {

struct TimedLength {
  std::size_t length, group, tokens;  // tokens: of a step
  std::vector<double> full, sparse;   // seconds of every repeat
  Interval ratio() const;             // sparse / full, geometric mean over the pairs
};

struct TimingSettings {
  std::vector<std::size_t> lengths;
  std::size_t tokens = 4096;  // of a step, or one sequence where that is longer
  std::size_t repeats = 9;
  std::size_t parts = 4;  // a group is length / parts
};

// Loss and gradients of the trained weights; the first pair of each length warms up.
std::vector<TimedLength> time_steps(LanguageModel model, const Weights& weights,
                                    const Training& training, const TimingSettings& settings);
std::string times_csv(const std::vector<TimedLength>& times);

}  // namespace gradview
