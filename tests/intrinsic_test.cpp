// Where curves cross, and what may be said of it.
#include <cmath>

#include "gradview/experiments/intrinsic/crossing.hpp"

namespace gradview {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

TEST(Crossing, LiesBetweenPointsOnALineOverLogarithms) {
  EXPECT_NEAR(crossing({{10, 0.5}, {1000, 0.7}, {2000, 0.95}}, 0.6), 100, 1e-9);
  EXPECT_EQ(crossing({{10, 0.95}, {100, 0.7}}, 0.9), 10);
  EXPECT_EQ(crossing({{10, 0.5}, {100, 0.7}}, 0.9), kNever);
  // nothing to draw a line from
  EXPECT_NEAR(crossing({{10, std::nan("")}, {100, 0.95}}, 0.9), 100, 1e-9);
}

TEST(Crossing, IntervalIsThatOfTheLogarithms) {
  const Crossing c = summarise({100, 400, 1600}, 100);
  EXPECT_NEAR(c.directions.mean, 400, 1e-9);
  EXPECT_NEAR(c.directions.low * c.directions.high, 400.0 * 400.0, 1e-6);
  EXPECT_EQ(c.at_once, 1U);
  EXPECT_EQ(c.missed, 0U);
}

TEST(Crossing, VerdictNeedsTheWholeInterval) {
  const Crossing c = summarise({90, 100, 110}, 1);
  EXPECT_EQ(judge_low(c, 1000, 5000), "holds");
  EXPECT_EQ(judge_low(c, 100, 5000), "undecided");
  EXPECT_EQ(judge_low(c, 10, 5000), "does not");
  EXPECT_EQ(judge_low(summarise({90, kNever}, 1), 1000, 5000), "undecided");
  EXPECT_EQ(judge_low(summarise({kNever, kNever}, 1), 1000, 5000), "does not");
  EXPECT_EQ(judge_low(summarise({kNever, kNever}, 1), 1000, 500), "undecided");
}

}  // namespace
}  // namespace gradview
