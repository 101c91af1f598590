// Adafactor and the bias corrections of Adam: what the official codes do, and their formulas.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "golden_steps.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
// Twelve steps, each a quotient of sums of up to nine squares: some thirty roundings of numbers
// around one.
constexpr double kTolerance = 12 * 30 * kEps;

UpdateRule rule(const std::string& spec) { return make_optimizer_spec(parse_spec(spec)).rule; }

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "adafactor", which));
}

TEST(Adafactor, StepsAsTheOfficialCodesDo) {
  GoldenSteps("adafactor.safetensors").expect_repeated(kTolerance);
}

TEST(Adafactor, OfficialCodesAgreeExceptForTheirBounds) {
  const GoldenSteps recorded("adafactor.safetensors");
  for (const std::string shape : {"tall", "wide", "vector", "faint"}) {
    GoldenSteps::Case c = recorded.named(shape + "_torch");
    c.optimizer = "adafactor";
    EXPECT_LE(recorded.deviation(c), kTolerance) << shape;
    c = recorded.named(shape + "_bounded");
    c.optimizer.replace(c.optimizer.find("torch"), 5, "transformers");
    if (shape == "faint") {
      EXPECT_GT(recorded.deviation(c), 1e-3);
    }
  }
}

TEST(Adafactor, SeesTheOptionsItIsGiven) {
  const GoldenSteps recorded("adafactor.safetensors");
  for (const char* name : {"tall_momentum", "tall_options", "tall_decay", "tall_unscaled"}) {
    GoldenSteps::Case c = recorded.named(name);
    c.optimizer = "adafactor";
    EXPECT_GT(recorded.deviation(c), 1e-3) << name;
  }
}

// m + n numbers for a matrix; the whole square for a vector, of which r c / mean(r) is the same.
TEST(Adafactor, KeepsRowsAndColumnsAndAllOfAVector) {
  const UpdateRule adafactor = rule("adafactor");
  EXPECT_EQ(adafactor.start({5, 4}).size(), 9u);
  EXPECT_EQ(adafactor.start({1, 4}).size(), 4u);
  EXPECT_EQ(adafactor.start({4, 1}).size(), 4u);
  EXPECT_EQ(rule("adafactor:beta1=0.5").start({5, 4}).size(), 29u);
  Moments vector = adafactor.start({1, 4});
  Moments factored{0, {}, {}, zeros({1, 1}), zeros({1, 4})};
  for (std::size_t t = 0; t < 4; ++t) {
    const Matrix w = draw({1, 4}, 10);
    Matrix one = draw({1, 4}, t);
    Matrix other = one;
    adafactor.apply(one, vector, w);
    adafactor.apply(other, factored, w);
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_NEAR(one.data()[i], other.data()[i], kTolerance);
    }
  }
}

TEST(Adafactor, StaysFiniteOnAZeroGradient) {
  for (const char* spec : {"adafactor", "adafactor:variant=torch"}) {
    for (const Shape shape : {Shape{3, 4}, Shape{1, 4}}) {
      Moments moments = rule(spec).start(shape);
      Matrix g = zeros(shape);
      rule(spec).apply(g, moments, draw(shape, 1));
      EXPECT_EQ(g, zeros(shape)) << spec;
    }
  }
}

TEST(Adafactor, RefusesWhatHasNoMeaning) {
  for (const char* spec :
       {"adafactor:variant=torch,beta1=0.9", "adafactor:beta2_decay=0.8", "adafactor:eps1=0",
        "adafactor:beta1=0.9,moments=none", "adafactor:clip_threshold=-1", "adafactor:beta2=0.9"}) {
    EXPECT_THROW(rule(spec), std::invalid_argument) << spec;
  }
}

// Without ε the two corrections are one; with it, it counts before or after.
TEST(Adam, CorrectsTheBiasOfTheAveragesOrOfTheRate) {
  for (const double eps : {1e-30, 0.5}) {
    const std::string tail = ",beta2=0.9,eps=" + std::to_string(eps);
    const std::string tiny = ",beta2=0.9,eps=1e-30";
    const auto step = [&](const std::string& how) {
      const UpdateRule adam = rule("adam:bias_correction=" + how + (eps < 0.1 ? tiny : tail));
      Moments moments = adam.start({2, 3});
      Matrix g;
      for (std::size_t t = 0; t < 3; ++t) {
        g = draw({2, 3}, t);
        adam.apply(g, moments, g);
      }
      scale(g, adam.rate(moments.step));
      return g;
    };
    double apart = 0;
    const Matrix averages = step("moments"), rate = step("rate"), none = step("none");
    const double factor = std::sqrt(1 - std::pow(0.9, 3)) / (1 - std::pow(0.9, 3));
    for (std::size_t i = 0; i < rate.size(); ++i) {
      apart = std::max(apart, std::abs(averages.data()[i] - rate.data()[i]));
      EXPECT_NEAR(rate.data()[i], factor * none.data()[i], kTolerance);
    }
    if (eps < 0.1) {
      EXPECT_LE(apart, kTolerance);
    } else {
      EXPECT_GT(apart, 0.01);
    }
  }
}

TEST(Adam, CorrectionOfTheRateReachesTheStep) {
  const auto moved = [](const std::string& how) {
    Matrix w = zeros({2, 3});
    Optimizer adam(
        {.spec = make_optimizer_spec(parse_spec("adam:eps=1e-30,bias_correction=" + how)),
         .lr = 0.1});
    adam.add("w", w, make_projector(parse_spec("full"), {.name = "w", .weight = w}));
    adam.collect("w", Gradient::dense(draw({2, 3}, 1)));
    adam.step();
    return std::abs(w(0, 0));
  };
  EXPECT_NEAR(moved("moments"), 0.1, kTolerance);
  EXPECT_NEAR(moved("rate"), 0.1, kTolerance);
  EXPECT_NEAR(moved("none"), 0.1 * 0.1 / std::sqrt(0.001), kTolerance);
}

}  // namespace
}  // namespace gradview
