// parallel: several linear layers side by side, of which only some need to change.
//
//     y = Σ_k (W_k + D_k) x_k + σ ε,  x_k ~ N(0, I),  ε ~ N(0, I)          D_k ≠ 0 for the needy ones
//
// The outputs add up, so that every layer sees the error of all of them. The whole problem is known
// in closed form: the loss without noise is ½ Σ_k ‖W_k − W_k⁰ − D_k‖² and accuracy is R², the share
// of Σ‖D_k‖² that is explained.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/task.hpp"

namespace gradview {

struct ParallelOptions {
  std::size_t matrices = 6, needy = 2, planted = 4, rows = 32, cols = 24, examples = 100000;
  double noise = 1;
  void declare(OptionSet& o);
  std::string name(std::size_t k) const;
  bool is_needy(std::size_t k) const;           // spread evenly, the first among them
  Shape shape(std::size_t k) const;             // rows x cols, every other one wider
  std::vector<double> singular_values() const;  // of D_k: from 1 down to 1/2
  double explained_by(std::size_t rank) const;  // R² of the best change of that rank each
};

TaskKind parallel_task();

}  // namespace gradview
