// Tuned curves: each curve's learning rate chosen on seeds of its own, then every curve run on the
// seeds that are reported. A seed's task, data order and frames are the same for all curves, so
// that differences are paired.
//
//     Sweep sweep(family, training, jobs, folder, progress);
//     sweep.prepare(seeds.all());
//     for (const TunedCurve& each : run_tuned(sweep, progress, curves, {.seeds = seeds})) …
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "gradview/experiments/sweep.hpp"

namespace gradview {

struct Seeds {
  std::size_t report = 5, tune = 2;
  std::vector<std::uint64_t> reported() const;  // 1, 2, …
  std::vector<std::uint64_t> tuning() const;    // 1001, 1002, …: never among the reported ones
  std::vector<std::uint64_t> all() const;
};

using Judge = std::function<double(const Run&)>;  // higher is better; −∞ for a run that diverged
double final_accuracy(const Run& run);            // on the validation split
double final_loss(const Run& run);                // likewise, negated

struct TuneSettings {
  Seeds seeds;
  Judge judge = final_accuracy;    // of a tuning run; a rate's score is the mean over the seeds
  std::vector<double> rates = {};  // exactly these; empty: searched as tuning.hpp says
  bool refine = true;              // false: the search ends with the half-decades
};

struct TunedCurve {
  Curve curve;
  double lr = 0;
  std::map<double, double> scores;  // of every rate tried
  std::vector<const Run*> runs;     // reported, in order of seed; they live in the sweep
};

// The sweep must be prepared for all seeds. Each curve must be one that the Optimizer accepts.
// metrics.csv is written anew at the end, in the order of the curves.
std::vector<TunedCurve> run_tuned(Sweep& sweep, Progress& progress,
                                  const std::vector<Curve>& curves, const TuneSettings& settings);

// Throws DivergedError where every reported run diverged.
void require_some_run(const std::vector<TunedCurve>& curves, const RunFolder& folder);

// A number of each reported run, in order of seed.
std::vector<double> over_seeds(const TunedCurve& curve,
                               const std::function<double(const Run&)>& number);

}  // namespace gradview
