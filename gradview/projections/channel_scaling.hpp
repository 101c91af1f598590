// Channel scaling: a gradient takes over, row by row, how an update rule changed a sketch's lengths.
//
//     d_i ← s_i d_i,  s_i = ‖N_i‖ / (‖R_i‖ + 10⁻⁸)          N = rule(R); i: the rows that d, N, R share
//
// (or their columns). Fira scales what its projection leaves out, APOLLO the gradient itself: Chen et
// al., 2024, arXiv:2410.01623; Zhu et al., 2024, arXiv:2412.05270. The constant is both codes'.
#pragma once

#include <cmath>
#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

enum class Channels { rows, columns };

inline std::vector<double> channel_norms(const Matrix& a, Channels channels) {
  const auto [m, n] = shape_of(a);
  std::vector<double> norms(channels == Channels::rows ? m : n);
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      norms[channels == Channels::rows ? i : j] += static_cast<double>(a(i, j)) * a(i, j);
    }
  }
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

inline double length_ratio(double ruled, double sketched) { return ruled / (sketched + 1e-8); }

inline void scale_channels(Matrix& d, const Matrix& ruled, const Matrix& sketched,
                           Channels channels) {
  std::vector<double> s = channel_norms(ruled, channels);
  const std::vector<double> r = channel_norms(sketched, channels);
  for (std::size_t k = 0; k < s.size(); ++k) s[k] = length_ratio(s[k], r[k]);
  const auto [m, n] = shape_of(d);
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      d(i, j) *= static_cast<Real>(s[channels == Channels::rows ? i : j]);
    }
  }
}

}  // namespace gradview
