// Spectral figures against what is known by construction.
#include "gradview/experiments/spectral.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "gradview/core/rng.hpp"

namespace gradview {
namespace {

Stream stream(std::size_t k) { return {11, Purpose::test, "spectral", k}; }

Matrix diagonal(const std::vector<double>& values, Shape shape) {
  Matrix a = zeros(shape);
  for (std::size_t k = 0; k < values.size(); ++k) a(k, k) = values[k];
  return a;
}

TEST(Spectral, RanksOfAKnownSpectrum) {
  // With rotations on both sides: squares 16, 4, 1 of 21.
  const Matrix q = haar_rows(5, 5, stream(1)), p = haar_rows(7, 7, stream(2));
  const Svd s = svd(matmul(matmul(q, diagonal({4, 2, 1}, {5, 7})), p));
  EXPECT_NEAR(stable_rank(s), 21.0 / 16, 1e-13);
  EXPECT_EQ(energy_rank(s, 0.5), 1U);
  EXPECT_EQ(energy_rank(s, 0.9), 2U);  // 20/21
  EXPECT_EQ(energy_rank(s, 0.96), 3U);
  EXPECT_TRUE(std::isnan(stable_rank(svd(zeros({3, 4})))));
  EXPECT_EQ(energy_rank(svd(zeros({3, 4}))), 0U);
}

TEST(Spectral, PrincipalCosinesOfTurnedSubspaces) {
  const double turn = 0.3;
  const Matrix a = matrix({{1, 0, 0, 0}, {0, 1, 0, 0}});
  const Matrix b = matrix({{1, 0, 0, 0}, {0, std::cos(turn), std::sin(turn), 0}});
  const Matrix mix = haar_rows(2, 2, stream(3));  // another basis of the same subspace
  const auto cosines = principal_cosines(a, matmul(mix, b));
  ASSERT_EQ(cosines.size(), 2U);
  EXPECT_NEAR(cosines[0], 1, 1e-14);
  EXPECT_NEAR(cosines[1], std::cos(turn), 1e-14);
  EXPECT_NEAR(subspace_similarity(a, b), (1 + std::pow(std::cos(turn), 2)) / 2, 1e-14);
}

TEST(Spectral, RandomSubspacesOverlapAsMuchAsChanceSays) {
  constexpr std::size_t kDraws = 400, n = 20, i = 3, j = 6;
  double mean = 0, squares = 0;
  for (std::size_t k = 0; k < kDraws; ++k) {
    const double phi = subspace_similarity(haar_rows(i, n, stream(10 + 2 * k)),
                                           haar_rows(j, n, stream(11 + 2 * k)));
    mean += phi / kDraws;
    squares += phi * phi / kDraws;
  }
  const double error = std::sqrt((squares - mean * mean) / kDraws);
  EXPECT_NEAR(mean, static_cast<double>(j) / n, 5 * error);
}

TEST(Spectral, CoveredShareIsThatOfTheRowsInside) {
  const Matrix v = haar_rows(3, 9, stream(4));
  const Matrix inside = matmul(normal({6, 3}, 1, stream(5)), v);
  EXPECT_NEAR(covered_share(inside, v), 1, 1e-13);
  Matrix outside = normal({6, 9}, 1, stream(6));
  add_matmul(outside, -1, matmul_nt(outside, v), v);
  EXPECT_NEAR(covered_share(outside, v), 0, 1e-13);
}

TEST(Spectral, AnIntruderIsALeadingVectorThatW0DoesNotHave) {
  const Svd before = svd(diagonal({5, 4, 3}, {6, 3}));  // left vectors e1, e2, e3
  Matrix w = diagonal({5, 4, 3}, {6, 3});
  EXPECT_EQ(intruder_dimensions(before, svd(w)), 0U);
  w(4, 2) = 9;  // a new direction e5, far larger than e3 in its column
  EXPECT_EQ(intruder_dimensions(before, svd(w)), 1U);
  EXPECT_EQ(intruder_dimensions(before, svd(w), 10, 0.1), 0U);  // it keeps 3/√90 of e3
  EXPECT_EQ(intruder_dimensions(before, svd(w), 0), 0U);
}

}  // namespace
}  // namespace gradview
