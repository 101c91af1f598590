// Flora: what the authors' code does, what a transfer does to a momentum, and the theorem that the
// method starts from.
#include "gradview/projections/flora.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "golden_steps.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr Shape kShape{7, 5};

Matrix draw(Shape shape, std::size_t which, double deviation = 1) {
  return normal(shape, deviation, Stream(1, Purpose::test, "flora", which));
}
double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }

struct Trained {
  Trained(const std::string& projector, const std::string& rule, double lr, Shape shape = kShape)
      : w(zeros(shape)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = lr, .seed = 1}) {
    optimizer.add("w", w,
                  make_projector(parse_spec(projector), {.name = "w", .weight = w, .seed = 1}));
  }
  void step(const Matrix& g) {
    optimizer.collect("w", Gradient::dense(g));
    optimizer.step();
  }
  Matrix momentum() {
    Matrix found;
    optimizer.projector("w").fields([&](std::string_view name, Matrix& value, Role) {
      if (name == "momentum") found = value;
    });
    return found;
  }
  Matrix w;
  Optimizer optimizer;
};

// Fourteen steps of some sixty roundings each.
TEST(Flora, StepsAsTheAuthorsCodeDoes) {
  GoldenSteps("flora_steps.safetensors").expect_repeated(14 * 60 * kEps);
}

TEST(Flora, SeesTheOptionsItIsGiven) {
  const GoldenSteps recorded("flora_steps.safetensors");
  const std::string spec = "flora:rank=2,beta1=0.7,refresh_every=4";
  for (const std::string& fault : std::vector<std::string>{
           spec + ",variant=jax", "flora:rank=2,beta1=0.7,refresh_every=5",
           "flora:rank=3,beta1=0.7,refresh_every=4", spec + ",clip_threshold=0.4"}) {
    GoldenSteps::Case c = recorded.named("tall_free");
    c.projector = fault;
    EXPECT_GT(recorded.deviation(c), 1e-4) << fault;
  }
}

// Two steps under plain gradient descent, the second with a new frame.
TEST(Flora, MixesTheDirectionAndTheLiftedMomentum) {
  constexpr double kBeta = 0.5, kRate = 0.1;
  const Matrix g0 = draw(kShape, 0), g1 = draw(kShape, 1);
  const auto frame = [](std::size_t epoch) {
    return normal({3, 5}, 1 / std::sqrt(3.0), Stream(1, Purpose::right_frame, "w", epoch));
  };
  for (const std::string variant : {"torch", "jax"}) {
    Trained one("flora:rank=3,beta1=0.5,refresh_every=2,variant=" + variant, "sgd", kRate);
    one.step(g0);
    one.step(g1);
    Matrix m = matmul_nt(g0, frame(0));
    scale(m, 1 - kBeta);
    Matrix want = zeros(kShape);
    axpy(want, -kRate * (1 - kBeta), g0);
    axpy(want, -kRate * (1 - kBeta), g1);
    if (variant == "torch") {  // the second step lifts m, then carries it over to frame 1
      add_matmul(want, -kRate * kBeta, m, frame(0));
      m = matmul(m, matmul_nt(frame(0), frame(1)));
      scale(m, kBeta);
      axpy(m, 1 - kBeta, matmul_nt(g1, frame(1)));
    } else {  // both steps lift the newest m, in frame 0
      add_matmul(want, -kRate * kBeta, m, frame(0));
      scale(m, kBeta);
      axpy(m, 1 - kBeta, matmul_nt(g1, frame(0)));
      add_matmul(want, -kRate * kBeta, m, frame(0));
    }
    EXPECT_LE(norm(difference(one.w, want)), 100 * kEps) << variant;
    EXPECT_LE(norm(difference(one.momentum(), m)), 100 * kEps) << variant;
  }
}

TEST(Flora, IsTheSameWhereverTheRuleKeepsItsMoments) {
  for (const char* rule : {"adafactor", "adam"}) {
    Trained weight("flora:rank=2,refresh_every=30", std::string(rule) + ":moments=weight", 0.1);
    Trained factors("flora:rank=2,refresh_every=30", std::string(rule) + ":moments=factors", 0.1);
    for (std::size_t t = 0; t < 5; ++t) {
      weight.step(draw(kShape, t));
      factors.step(draw(kShape, t));
    }
    EXPECT_EQ(weight.w, factors.w) << rule;
    EXPECT_EQ(weight.momentum(), factors.momentum()) << rule;
  }
}

TEST(Flora, GathersMomentumAtALearningRateOfZero) {
  Trained one("flora:rank=2,refresh_every=30", "adafactor:scale_parameter=false", 0);
  one.step(draw(kShape, 1));
  EXPECT_EQ(one.w, zeros(kShape));
  EXPECT_GT(norm(one.momentum()), 0.01);
}

// E‖(m A) A′ᵀ‖² = (n + r + 1)/r ‖m‖² for m = G Aᵀ, over both frames; orthonormal rows never add.
TEST(Flora, EachTransferMultipliesTheEnergyByTheKnownFactor) {
  constexpr int kDraws = 32000;
  for (const Shape shape : {Shape{3, 9}, Shape{2, 6}, Shape{4, 5}}) {  // of the frame, r x n
    const std::size_t r = shape.rows, n = shape.cols;
    const Matrix g = draw({4, n}, 3);
    double before = 0, sum = 0, squares = 0, orthonormal = 0;
    const double expected = static_cast<double>(n + r + 1) / static_cast<double>(r);
    for (std::size_t k = 0; k < kDraws; ++k) {
      const auto frame = [&](std::size_t which) {
        return draw({r, n}, 10 + 2 * k + which, 1 / std::sqrt(static_cast<double>(r)));
      };
      const Matrix old = frame(0);
      const Matrix m = matmul_nt(g, old);
      const double after = squared_norm(matmul(m, matmul_nt(old, frame(1))));
      // E after − expected · E before, in one mean
      const double off = after - expected * squared_norm(m);
      before += squared_norm(m);
      sum += off;
      squares += off * off;
      if (k >= 200) continue;
      Moments moments{1, m, {}, {}, {}};
      const Change change{.left = {},
                          .right = matmul_nt(orthonormal_rows(old), orthonormal_rows(frame(1))),
                          .contraction = 1};
      transport_moments(Transport::rotate, change, moments);
      orthonormal = std::max(orthonormal, squared_norm(moments.first) / squared_norm(m));
    }
    const double mean = sum / kDraws;
    const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
    EXPECT_LE(std::abs(mean), 5 * error) << n << " " << r;
    EXPECT_GT(0.2 * before / kDraws, 5 * error) << "too few draws to see a factor off by 0.2";
    EXPECT_LE(orthonormal, 1 + 100 * kEps);
  }
}

// n = 5, r = 2: a factor of 4; 0.9^(2κ) 4 < 1 from κ = 7 on.
TEST(Flora, RefusesIntervalsAtWhichItsMomentumDiverges) {
  const auto make = [](const std::string& spec) { Trained one(spec, "sgd", 0.1); };
  EXPECT_NO_THROW(make("flora:rank=2,refresh_every=7"));
  EXPECT_NO_THROW(make("flora:rank=2,refresh_every=1,beta1=0"));
  EXPECT_THROW(make("flora:rank=2,refresh_every=0"), std::invalid_argument);
  try {
    make("flora:rank=2,refresh_every=6");
    ADD_FAILURE() << "accepted";
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("take refresh_every=7 or more"), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

TEST(Transfer, LeastSoundIntervalIsTheLeast) {
  for (const double beta : {0.5, 0.9, 0.99}) {
    for (const double growth : {0.5, 1.0, 4.0, 49.0}) {
      const std::size_t every = least_sound_interval(beta, growth);
      EXPECT_LT(transfer_factor(beta, every, growth), 1);
      if (every > 1) {
        EXPECT_GE(transfer_factor(beta, every - 1, growth), 1);
      }
    }
  }
  EXPECT_EQ(least_sound_interval(0.9, (768 + 16 + 1) / 16.0), 19u);
  EXPECT_EQ(least_sound_interval(0.9, (4096 + 256 + 1) / 256.0), 14u);
}

// The theorem that the method is named after: LoRA with u = 0 moves W as a fixed random projection
// of the gradients summed up, W_T − W₀ = −η s² (Σ G_t) v₀ᵀv₀, to relative order (ηT)²: v moves by
// −η s uᵀG, and u itself is of order ηT. (The paper bounds it by ηT.)
TEST(Flora, LoraIsARandomProjectionOfTheAccumulatedGradient) {
  constexpr std::size_t kSteps = 16;
  const Matrix target = draw(kShape, 5);
  const auto off = [&](double lr) {
    Trained lora("lora:rank=3,alpha=5", "sgd", lr);
    const double s = 5.0 / 3;
    const Matrix v0 = lora.optimizer.projector("w").factors().at(1);
    Matrix summed = zeros(kShape);
    for (std::size_t t = 0; t < kSteps; ++t) {
      const Matrix g = difference(lora.w, target);
      axpy(summed, 1, g);
      lora.step(g);
    }
    Matrix want = matmul(matmul_nt(summed, v0), v0);
    scale(want, -lr * s * s);
    return norm(difference(lora.w, want)) / norm(want);
  };
  double coarse = off(0.01);
  for (double lr = 0.005; lr > 0.0005; lr /= 2) {
    const double fine = off(lr);
    EXPECT_NEAR(std::log2(coarse / fine), 2, 0.2) << lr;  // the next order is ηT beside it
    coarse = fine;
  }
  EXPECT_LT(coarse, 0.01);
}

}  // namespace
}  // namespace gradview
