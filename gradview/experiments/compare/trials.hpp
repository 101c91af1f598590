// Expected best of k trials: how good a curve is after k trials of its search, were they done in
// any order. With the scores sorted, x₁ ≤ … ≤ x_N, x_i is the best of a subset of size k that holds
// it and k − 1 of the i − 1 below:
//
//   E_k = Σ_i x_i C(i−1, k−1) / C(N, k)
//
// after Dodge, Gururangan, Card, Schwartz, Smith, "Show Your Work: Improved Reporting of
// Experimental Results", 2019, arXiv 1909.03004, who draw with replacement; here each trial is
// drawn once, so that E_N is the best.
#pragma once

#include <string>
#include <vector>

#include "gradview/experiments/compare/comparison.hpp"

namespace gradview {

// E_1 … E_N. A trial that diverged (−∞) did not learn: it counts with 0.
std::vector<double> expected_best(std::vector<double> scores);

// trials.csv: curve (with the knob as it was chosen), optimizer, k, expected_best; scores: of each
// line of the table.
std::string trials_csv(const Table& table, const std::vector<std::vector<double>>& scores);

}  // namespace gradview
