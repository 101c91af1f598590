// The seconds of a step, part by part: all methods take turns in one process, each on its own
// optimizer, all on the same weights and tokens. Forward is the same computation in every case, and
// δ in every case of a scenario: in each round they are given the median of all that did it, so that
// a disturbance of one of them is not taken for a difference between methods.
#pragma once

#include <array>
#include <vector>

#include "gradview/experiments/cost/counting.hpp"
#include "gradview/experiments/driver/progress.hpp"

namespace gradview {

// How the matrix products of forward and δ are computed.
struct Arithmetic {
  const char* name;
  Compute compute;
};
const std::vector<Arithmetic>& arithmetics();  // that run here, float first

using SecondsOfParts = std::array<double, kParts.size()>;

struct Case {
  const Scenario* scenario;
  const Priced* method;
  const Arithmetic* compute;
  std::vector<SecondsOfParts> rounds = {};
  std::vector<double> refreshes = {};  // seconds of one choice of the subspace, all layers
  std::size_t state_bytes = 0;         // moments and frames

  double step(std::size_t round) const;  // seconds of all parts
};

struct Plan {
  LinearBlocks model;
  std::size_t tokens = 512, rank = 8, repeats = 15;
  std::size_t refreshes = 2;  // how often the choice of a subspace is timed
  std::uint64_t seed = 1;
};
// Fills in the rounds and the refreshes of every case, after steps to warm up that are not counted.
// No method may choose its subspace within the rounds: refresh_every > repeats, or every step.
void measure(const Plan& plan, std::vector<Case>& cases, Progress& progress);

}  // namespace gradview
