// Changes of a weight that methods are asked to express: drawn ones whose spectrum is chosen, sums
// of a row and a column term, and what full-rank training really did.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/task.hpp"

namespace gradview {

// Singular vectors of Haar measure, singular values as the kind says, ‖D‖ = 1.
struct TargetKind {
  std::string name, spectrum;
};
const std::vector<TargetKind>& target_kinds();
Matrix drawn_change(const std::string& kind, Shape shape, std::uint64_t seed);

struct TrainedChange {
  std::string name;  // of the weight
  Matrix change;     // W − W₀ after full-rank training
  Matrix sigma;      // E[x xᵀ] of its inputs at W₀
};
struct FineTune {
  std::vector<TrainedChange> changes;  // of every matrix
  double start_accuracy, accuracy;     // validation
};
struct FineTuneSettings {
  std::size_t steps = 300, batch_size = 128;
  double lr = 1e-3;
};
// All matrices and biases under full and Adam, the rate falling along a cosine.
FineTune fine_tune(const Task& task, std::uint64_t seed, const FineTuneSettings& settings);

}  // namespace gradview
