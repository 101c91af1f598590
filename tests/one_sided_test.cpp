// The one-sided projections: how they choose frames, what they keep, and what each of them adds.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "gradview/projections/growth_limiter.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();

TEST(GrowthLimiter, LetsAStepBeAtMostOnePercentLongerThanTheLast) {
  GrowthLimiter limiter;
  double last = 3;
  EXPECT_EQ(limiter.limit(last), 1);
  for (const double length : {3.02, 40.0, 1.0, 0.5, 0.6, 9.0}) {
    const double factor = limiter.limit(length);
    EXPECT_NEAR(factor * length, std::min(length, 1.01 * (last + 1e-8)), 4 * kEps * length);
    last = factor * length;
  }
}

TEST(GrowthLimiter, DoesNotRememberWhatHasNoLength) {
  GrowthLimiter limiter;
  EXPECT_EQ(limiter.limit(0), 1);
  EXPECT_EQ(limiter.limit(2), 1);
  EXPECT_EQ(limiter.limit(std::numeric_limits<double>::infinity()), 1);
  EXPECT_EQ(limiter.limit(std::nan("")), 1);
  EXPECT_EQ(limiter.limit(0), 1);
  EXPECT_NEAR(limiter.limit(4), 1.01 * (2 + 1e-8) / 4, 4 * kEps);
}

TEST(GrowthLimiter, IsOneNumberOfState) {
  GrowthLimiter limiter, again;
  limiter.limit(5);
  std::size_t numbers = 0;
  Matrix saved;
  limiter.fields([&](std::string_view, Matrix& value, Role role) {
    EXPECT_EQ(role, Role::frozen);
    numbers += value.size();
    saved = value;
  });
  EXPECT_EQ(numbers, GrowthLimiter::kStored);
  again.fields([&](std::string_view, Matrix& value, Role) { value = saved; });
  EXPECT_EQ(limiter.limit(7), again.limit(7));
}

}  // namespace
}  // namespace gradview
