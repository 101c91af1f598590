// compare: projectors crossed with optimizers on one task, each tuned, judged over paired seeds.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/driver/compute.hpp"
#include "gradview/experiments/training.hpp"

namespace gradview {

struct CompareSettings {
  std::vector<std::string> projectors{"full",          "lora:rank=4",
                                      "lora:rank=1",   "lora:rank=4,init=symmetric",
                                      "random:rank=4", "random:rank=4,refresh_every=0",
                                      "additive",      "additive:rank=4",
                                      "bitfit"};
  std::vector<std::string> optimizers{"sgd", "adam"};
  std::string task = "fashion", rest = "frozen", biases = "frozen", lr, best_from,
              group_by = "none";
  std::vector<std::string> overrides;
  std::vector<std::string> contrasts{"additive", "bitfit",        "additive:rank=4",
                                     "bitfit",   "random:rank=4", "random:rank=4,refresh_every=0"};
  std::size_t seeds = 5, tune_seeds = 2, jobs = 1, threads = 1;
  std::optional<std::size_t> eval_every, trials;
  std::optional<double> clip;
  double margin = 0.5;  // points
  bool quiet = false;
  TaskContext context;
  ComputeFlag compute;
  TrainingSettings training;

  void declare(Flags& flags);
  // Checks what can be checked without data, and fills in what follows from other settings.
  void finish(const Flags& flags);
  std::vector<Curve> curves() const;                  // as they are listed, knobs included
  std::vector<std::uint64_t> reported_seeds() const;  // 1 … seeds
  std::vector<std::uint64_t> tuning_seeds() const;    // 1001 … 1000 + tune_seeds
  std::vector<std::pair<std::string, std::string>> contrast_pairs() const;  // those in this call
  std::vector<double> listed_rates() const;                                 // of --lr; empty: tuned
};

// The whole program; a main of one line gives a user's own projectors and tasks every flag, sweep,
// table and plot.
int compare_main(int argc, const char* const* argv);

}  // namespace gradview
