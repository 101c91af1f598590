// Moments: what an update rule remembers of one matrix, and how its coordinates may change.
#pragma once

#include <cmath>
#include <cstddef>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Moments {         // empty where the rule keeps none
  std::size_t step = 0;  // updates so far
  Matrix first;          // average of the gradient, m x n
  Matrix second;         // average of its square, m x n
  Matrix row, column;    // averages of the square over each row (m x 1) and each column (1 x n)
  double beta1 = 0, beta2 = 0;  // what a step keeps of first and of second: constants of the rule
  double newest = 1;  // the weight of the newest gradient in first: 1 − β₁, or 1 in a sum

  std::size_t size() const { return first.size() + second.size() + row.size() + column.size(); }
  // The weights of all gradients in an average together: what its bias correction divides by.
  double first_weight() const { return newest * shares(beta1) / (1 - beta1); }
  double second_weight() const { return shares(beta2); }

 private:
  double shares(double beta) const {
    return step == 0 ? 1 : 1 - std::pow(beta, static_cast<double>(step));
  }
};

// How the coordinates of one factor changed when the subspace moved:
//
//     new = left · old · right          an empty matrix stands for the identity
//
// For a factor whose rows are coordinates in a frame b (r x n), right = b_old b_newᵀ; for one whose
// columns are coordinates in aᵀ (m x r), left = a_new a_oldᵀ. The frames F are scaled so that
// E[FᵀF] = I; times `contraction`, the products are those of (nearly) orthonormal ones.
struct Change {
  Matrix left, right;
  double contraction = 1;
};

// What moments on factors become when the subspace moves.
enum class Transport { automatic, keep, project, rotate, reset };

// β₁^(2κ) times the growth of E‖m‖² in one transport=project, over κ = refresh_every steps: at or
// above one the average diverges.
inline double transfer_factor(double beta1, std::size_t refresh_every, double growth) {
  return std::pow(beta1, 2 * static_cast<double>(refresh_every)) * growth;
}

// The least κ at which it does not.
inline std::size_t least_sound_interval(double beta1, double growth) {
  std::size_t every = 1;
  while (transfer_factor(beta1, every, growth) >= 1) ++every;
  return every;
}

}  // namespace gradview
