#include "gradview/experiments/spectral.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradview {
namespace {

double energy(const std::vector<double>& singular, std::size_t count) {
  double squares = 0;
  for (std::size_t k = 0; k < count; ++k) squares += singular[k] * singular[k];
  return squares;
}

}  // namespace

double stable_rank(const Svd& s) {
  if (s.singular.empty() || s.singular[0] == 0) return std::numeric_limits<double>::quiet_NaN();
  return energy(s.singular, s.singular.size()) / (s.singular[0] * s.singular[0]);
}

std::size_t energy_rank(const Svd& s, double share) {
  const double all = energy(s.singular, s.singular.size());
  std::size_t rank = 0;
  for (double held = 0; held < share * all && rank < s.singular.size(); ++rank) {
    held += s.singular[rank] * s.singular[rank];
  }
  return rank;
}

std::vector<double> principal_cosines(const Matrix& a, const Matrix& b) {
  std::vector<double> cosines = svd(matmul_nt(a, b)).singular;
  for (double& cosine : cosines) cosine = std::min(cosine, 1.0);  // rounding
  return cosines;
}

double subspace_similarity(const Matrix& a, const Matrix& b) {
  return squared_norm(matmul_nt(a, b)) / static_cast<double>(std::min(a.shape()[0], b.shape()[0]));
}

double covered_share(const Matrix& d, const Matrix& v) {
  return squared_norm(matmul_nt(d, v)) / squared_norm(d);
}

std::size_t intruder_dimensions(const Svd& before, const Svd& after, std::size_t top,
                                double threshold) {
  const Matrix cosines = matmul_tn(after.u, before.u);  // row k: of after's vector k
  const auto [count, all] = shape_of(cosines);
  std::size_t intruders = 0;
  for (std::size_t k = 0; k < std::min(top, count); ++k) {
    double largest = 0;
    for (std::size_t j = 0; j < all; ++j) {
      largest = std::max(largest, std::abs(static_cast<double>(cosines(k, j))));
    }
    intruders += largest < threshold;
  }
  return intruders;
}

}  // namespace gradview
