// What theory says of averages kept in the coordinates of frames b (r x n) that are drawn anew,
// with G constant, and what Optimizer, transport_moments and the random frames really do.
//
//     lift of the first moment   E = (1 − β₁) G: every older term has mean zero
//     its energy                 ((1 − β₁)² (n + r + 1)/r + (1 − β₁)² β₁²/(1 − β₁²) n/r) ‖G‖²
//     second moment              E v_jk = ‖G_j‖²/r: row-wise, whatever the basis
//     transport=project          E‖m‖² grows by (n + r + 1)/r a transfer (Gaussian; Haar n/r), so
//                                that it is stable where β₁^(2κ) times that is below one
//     transport=rotate           E‖m‖² shrinks to r/n of itself between unrelated Haar frames
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gradview {

struct TheoryCheck {
  std::string claim, family;
  std::size_t rank;
  double measured, predicted, standard_error;
  bool holds() const;  // within five standard errors
};

struct TheorySettings {
  std::size_t rows = 32, cols = 32, samples = 4000, jobs = 1;
  std::uint64_t seed = 1;
  std::vector<std::size_t> ranks{1, 4};
};

std::vector<TheoryCheck> check_moments_theory(const TheorySettings& settings);

}  // namespace gradview
