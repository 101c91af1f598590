// Spectral: what singular vectors and values say about an accumulated change of a weight.
#pragma once

#include "gradview/core/linalg.hpp"

namespace gradview {

// ‖A‖_F² / σ₁², between 1 and the rank. NaN for a zero matrix.
double stable_rank(const Svd& s);
// The fewest singular directions that hold `share` of ‖A‖_F². 0 for a zero matrix.
std::size_t energy_rank(const Svd& s, double share = 0.9);

// Cosines of the principal angles between the row spaces of a (i x n) and b (j x n), both with
// orthonormal rows; min(i, j) of them, descending.
std::vector<double> principal_cosines(const Matrix& a, const Matrix& b);
// φ = ‖a bᵀ‖_F² / min(i, j), in [0, 1]: Hu et al. 2021, arXiv:2106.09685, section 7.2. For
// independent random subspaces its mean is max(i, j)/n.
double subspace_similarity(const Matrix& a, const Matrix& b);
// ‖D vᵀ‖_F² / ‖D‖_F²: the share of a change D that the row space of v (orthonormal rows) covers.
double covered_share(const Matrix& d, const Matrix& v);

// Among the `top` leading left singular vectors of W, how many are nearly orthogonal to all of
// W₀'s: largest |cos| below `threshold`. Shuttleworth et al.: LoRA vs Full Fine-tuning: An Illusion
// of Equivalence, 2024, arXiv:2410.21228.
std::size_t intruder_dimensions(const Svd& before, const Svd& after, std::size_t top = 10,
                                double threshold = 0.5);

}  // namespace gradview
