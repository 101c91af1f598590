// The elementary functions of the models against the standard library's in long double.
#include "gradview/models/elementary.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace gradview {
namespace {

constexpr long double kUnit = std::numeric_limits<Real>::epsilon();

TEST(Elementary, ExponentialIsWithinThreeUnits) {
  for (long double at = -87.3L; at < 88.7L; at += 0.000713L) {
    const Real x = static_cast<Real>(at);
    const long double e = std::exp(static_cast<long double>(x));
    ASSERT_LE(std::abs(exponential(x) - e), 3 * kUnit * e) << x;
  }
}

TEST(Elementary, ExponentialTakesEveryNumber) {
  const Real inf = std::numeric_limits<Real>::infinity();
  EXPECT_EQ(exponential(0), 1);
  EXPECT_EQ(exponential(-inf), 0);
  EXPECT_EQ(exponential(Real{-1e4}), 0);
  EXPECT_GT(exponential(Real{1e4}), Real{3e38});
  EXPECT_TRUE(std::isnan(exponential(std::numeric_limits<Real>::quiet_NaN())));
  EXPECT_LT(sigmoid(-1e4), 1e-38);
  EXPECT_EQ(sigmoid(1e4), 1);
}

// Rounding z²/2, or z/√2, costs up to z² units of the result.
TEST(Elementary, NormalDistributionIsWithinItsBound) {
  for (long double at = -12; at < 12; at += 0.00037L) {
    const Real z = static_cast<Real>(at);
    const long double exact = z;
    const long double cdf = std::erfc(-exact / std::sqrt(2.0L)) / 2;
    const long double density = std::exp(-exact * exact / 2) / std::sqrt(2 * std::acos(-1.0L));
    const long double units = (4 + exact * exact) * kUnit;
    const Normal got = normal_at(z);
    ASSERT_LE(std::abs(got.cdf - cdf), units * (z > 0 ? 1 : cdf)) << z;
    ASSERT_LE(std::abs(got.density - density), units * density) << z;
  }
}

}  // namespace
}  // namespace gradview
