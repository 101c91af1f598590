// APOLLO: what the authors' code does, and what the lengths of the sketch are worth.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "golden_steps.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "apollo", which));
}
double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }

std::unique_ptr<Projector> made(const std::string& spec, const Matrix& w, std::uint64_t seed = 1) {
  return make_projector(parse_spec(spec), {.name = "w", .weight = w, .seed = seed});
}

// Fourteen steps of lengths up to ten, each of some sixty roundings.
TEST(Apollo, StepsAsTheAuthorsCodeDoes) {
  GoldenSteps("apollo_adamw.safetensors").expect_repeated(14 * 60 * 10 * kEps);
}

TEST(Apollo, RecordingsSeeEveryOption) {
  const GoldenSteps recorded("apollo_adamw.safetensors");
  for (const std::string shape : {"tall", "wide"}) {
    const auto off = [&](const char* name, const char* from, const std::string& to) {
      GoldenSteps::Case c = recorded.named(shape + name);
      for (std::string* text : {&c.projector, &c.optimizer}) {
        const std::size_t at = text->find(from);
        if (at != std::string::npos) text->replace(at, std::string(from).size(), to);
      }
      return recorded.deviation(c);
    };
    EXPECT_GT(off("_channel", "scaling=channel", "scaling=channel,growth_limit=0"), 1e-3);
    EXPECT_GT(off("_channel", "scaling=channel", "scaling=tensor"), 1e-3);
    EXPECT_GT(off("_channel", "bias_correction=rate", "bias_correction=moments"), 1e-6);
    EXPECT_GT(off("_channel", "refresh_every=5", "refresh_every=4"), 1e-4);
    EXPECT_GT(off("_channel_behind", "scale=4", "scale=2"), 1e-3);
    EXPECT_LT(off("_mini", ",scaling=tensor", ""), 1e-10);  // what rank 1 means
  }
}

// E‖R_j‖² = ‖G_j‖² over the frames, row by row or column by column.
TEST(Apollo, SketchKeepsTheLengthOfEveryChannelInTheMean) {
  constexpr int kDraws = 4000;
  for (const Shape shape : {Shape{7, 5}, Shape{4, 6}}) {
    const bool right = shape.rows >= shape.cols;
    const Matrix g = draw(shape, 1);
    const Matrix w = zeros(shape);
    const std::size_t channels = right ? shape.rows : shape.cols;
    for (std::size_t j = 0; j < channels; ++j) {
      double want = 0, sum = 0, squares = 0;
      for (std::size_t k = 0; k < (right ? shape.cols : shape.rows); ++k) {
        const double x = right ? g(j, k) : g(k, j);
        want += x * x;
      }
      for (std::uint64_t seed = 1; seed <= kDraws; ++seed) {
        const Matrix r = made("apollo:rank=2", w, seed)->project(Gradient::dense(g), w)[0];
        double square = 0;
        for (std::size_t k = 0; k < 2; ++k) {
          square += right ? r(j, k) * r(j, k) : r(k, j) * r(k, j);
        }
        sum += square;
        squares += square * square;
      }
      const double mean = sum / kDraws;
      const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
      EXPECT_LE(std::abs(mean - want), 5 * error) << to_string(shape) << ", channel " << j;
      EXPECT_LT(5 * error, 0.1 * want);
    }
  }
}

// Plain gradient descent has N = R: the step is the gradient's own, and the limiter holds it.
TEST(Apollo, UnderPlainDescentIsPlainDescentWithALimiter) {
  for (const char* spec : {"apollo:rank=2", "apollo:rank=1", "apollo:rank=2,scaling=tensor"}) {
    Matrix w = zeros({7, 5});
    Optimizer sgd({.spec = make_optimizer_spec(parse_spec("sgd")), .lr = 0.1, .seed = 1});
    sgd.add("w", w, made(spec, w));
    Matrix g = draw({7, 5}, 1);
    double length = norm(g);
    for (int step = 0; step < 3; ++step) {
      const Matrix before = w;
      sgd.collect("w", Gradient::dense(g));
      sgd.step();
      EXPECT_NEAR(norm(difference(w, before)), 0.1 * length, 1e-7) << spec;  // 10⁻⁸ beside ‖R‖
      scale(g, 2);
      length *= 1.01;
    }
  }
}

TEST(Apollo, StepsOfARateOfZeroLeaveTheWeightAndCountForTheLimiter) {
  Matrix w = zeros({7, 5});
  Optimizer adam({.spec = make_optimizer_spec(parse_spec("adam")), .lr = 0, .seed = 1});
  adam.add("w", w, made("apollo:rank=2", w));
  adam.collect("w", Gradient::dense(draw({7, 5}, 1)));
  adam.step();
  EXPECT_EQ(w, zeros({7, 5}));
  double length = 0;
  adam.projector("w").fields([&](std::string_view, Matrix& value, Role) { length = value(0, 0); });
  EXPECT_GT(length, 0.1);
}

TEST(Apollo, KeepsOneNumberBesideItsMoments) {
  Matrix w = zeros({7, 5});
  Optimizer adam({.spec = make_optimizer_spec(parse_spec("adam")), .lr = 0.1, .seed = 1});
  adam.add("w", w, made("apollo:rank=1", w));
  EXPECT_EQ(adam.state_bytes(), (2 * 7 + 1) * sizeof(Real));
}

TEST(Apollo, RefusesWhatHasNoMeaning) {
  const Matrix w = zeros({7, 5});
  for (const char* spec : {"apollo:refresh_every=0", "apollo:scaling=row", "apollo:scale=0",
                           "apollo:growth_limit=-1", "apollo:side=left"}) {
    EXPECT_THROW(made(spec, w), std::invalid_argument) << spec;
  }
}

}  // namespace
}  // namespace gradview
