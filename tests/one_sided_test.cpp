// The one-sided projections: how they choose frames, what they keep, and what each of them adds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gradview/core/rng.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/optim/transport.hpp"
#include "gradview/projections/growth_limiter.hpp"
#include "gradview/projections/range_finder.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
// Entries of order one, each a sum of fewer than a hundred products that went through a dozen steps.
constexpr double kTolerance = 1e-12;

Matrix draw(Shape shape, std::size_t which, double deviation = 1) {
  return normal(shape, deviation, Stream(3, Purpose::test, "one-sided", which));
}
double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }
double distance(const Matrix& a, const Matrix& b) { return norm(difference(a, b)); }

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

// One gradient g gives m = (1 − β₁) g and v = (1 − β₂) g², without any variance: turned by C they are
// those of C g, whatever C is.
TEST(Transport, RotatesTheMomentsOfOneGradientIntoThoseOfTheTurnedOne) {
  const Adam rule{.beta1 = 0.9, .beta2 = 0.99};
  const Matrix g = draw({4, 3}, 1);
  const Matrix c = draw({3, 3}, 2);
  Moments moments = rule.start({4, 3});
  Moments turned = moments;
  Matrix direction = g;
  rule(direction, moments, g);
  direction = matmul(g, c);
  rule(direction, turned, g);
  transport_moments(Transport::rotate, {.left = {}, .right = c}, moments);
  EXPECT_LE(distance(moments.first, turned.first), kTolerance);
  EXPECT_LE(distance(moments.second, turned.second), kTolerance);
}

struct Trial {  // one matrix under one optimizer
  Trial(const std::string& projector, const std::string& rule, double lr, Matrix start,
        double clip = std::numeric_limits<double>::infinity())
      : w(std::move(start)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)),
                   .lr = lr,
                   .steps = 100,
                   .seed = 5,
                   .clip = clip}) {
    const Site site{.name = "w", .weight = w, .seed = 5, .steps = 100};
    optimizer.add("w", w, make_projector(parse_spec(projector), site));
  }
  void step(const Matrix& g) { step(std::vector<Matrix>{g}); }
  void step(const std::vector<Matrix>& parts) {  // their mean
    for (const Matrix& g : parts) {
      optimizer.collect("w", Gradient::dense(g), 1.0 / static_cast<double>(parts.size()));
    }
    optimizer.step();
  }
  Matrix field(const std::string& name) {
    Matrix found;
    optimizer.fields([&](std::string_view key, Matrix& value, Role) {
      if (key == name) found = value;
    });
    return found;
  }
  void set(const std::string& name, const Matrix& to) {
    optimizer.fields([&](std::string_view key, Matrix& value, Role) {
      if (key == name) value = to;
    });
  }
  Matrix projected(const Matrix& g) {  // J Jᵀ G
    Matrix out = zeros(shape_of(w));
    Projector& p = optimizer.projector("w");
    p.lift(p.project(Gradient::dense(g), w), out);
    return out;
  }

  Matrix w;
  Optimizer optimizer;
};

constexpr Shape kTall{9, 6}, kWide{5, 8}, kSquare{7, 7};
constexpr Shape kShapes[] = {kTall, kWide, kSquare};

// Gradients of a slowly turning low-rank part and noise, as training has them.
Matrix gradient(Shape shape, std::size_t step) {
  const auto [m, n] = shape;
  Matrix u = draw({m, 3}, 100);
  axpy(u, 0.1 * static_cast<double>(step), draw({m, 3}, 101));
  Matrix g = draw(shape, 200 + step, 0.3);
  add_matmul(g, 1, u, draw({3, n}, 102));
  return g;
}

Matrix random_rotation(std::size_t r, std::size_t which) {
  return haar_rows(r, r, Stream(3, Purpose::test, "rotation", which));
}

testing::AssertionResult orthonormal_rows_are(const Matrix& v) {
  const double off = distance(matmul_nt(v, v), identity(v.shape()[0]));
  if (off <= kTolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "‖v vᵀ − I‖ = " << off;
}

TEST(LeadingFrames, KeepTheBestApproximationOfTheirRank) {
  for (const Shape shape : kShapes) {
    const Matrix g = gradient(shape, 0);
    const Svd s = svd(g);
    double rest = 0;
    for (std::size_t k = 2; k < s.singular.size(); ++k) rest += s.singular[k] * s.singular[k];
    for (const char* side : {"left", "right", "both", "auto", "long"}) {
      Trial run("galore:rank=2,side=" + std::string(side), "sgd", 1, zeros(shape));
      run.step(g);
      EXPECT_NEAR(squared_norm(difference(g, run.projected(g))), rest, kTolerance * squared_norm(g))
          << to_string(shape) << " " << side;
    }
  }
}

TEST(LeadingFrames, HaveFixedSigns) {
  const Matrix g = gradient(kTall, 0);
  const Frames one = leading_frames(Gradient::dense(g), 3);
  Matrix negative = g;
  scale(negative, -1);
  const Frames other = leading_frames(Gradient::dense(negative), 3);
  EXPECT_LE(distance(one.v, other.v), kTolerance);
  EXPECT_LE(distance(one.u, other.u), kTolerance);
  for (std::size_t k = 0; k < 3; ++k) {
    const Matrix row = rows(one.v, k, 1);
    EXPECT_GT(*std::max_element(row.begin(), row.end()),
              -*std::min_element(row.begin(), row.end()));
  }
}

// With Ω₁ = V₁ᵀΩ, Ω₂ = V₂ᵀΩ for a start Ω (n x l), the iterated space holds a basis U₁ + U₂F with
// F = Σ₂^p Ω₂ Ω₁⁺ Σ₁^−p, p = 2q + 1. Its projection of G has at least the energy ‖Σ₁‖²/(1 + ‖F‖²).
TEST(LeadingFrames, OfSubspaceIterationMissNoMoreEnergyThanTheGapAllows) {
  constexpr std::size_t kRank = 3, kWidth = 5;
  constexpr double kGap = 0.5;
  for (const Shape shape : {Shape{20, 12}, Shape{11, 16}}) {
    const auto [m, n] = shape;
    const std::size_t k = std::min(m, n);
    const Matrix left = haar_rows(k, m, Stream(3, Purpose::test, "left"));
    const Matrix right = haar_rows(k, n, Stream(3, Purpose::test, "right"));
    Matrix scaled = left;
    double captured = 0;
    for (std::size_t i = 0; i < k; ++i) {
      const double sigma =
          (i < kRank ? 4.0 : 4 * kGap) / (1 + 0.1 * static_cast<double>(i % kRank));
      if (i < kRank) captured += sigma * sigma;
      for (std::size_t j = 0; j < m; ++j) scaled(i, j) *= sigma;
    }
    const Gradient g = Gradient::dense(matmul_tn(scaled, right));
    const double gap = kGap * (1 + 0.1 * (kRank - 1));  // σ_{r+1}/σ_r
    for (const bool from_left : {false, true}) {
      const Matrix start =
          normal({kWidth, from_left ? m : n}, 1, Stream(3, Purpose::test, "start"));
      const Matrix onto = matmul_nt(from_left ? left : right, start);  // k x l
      const Matrix one = rows(onto, 0, kRank);
      const Matrix two = rows(onto, kRank, k - kRank);
      const Matrix pseudo = matmul_tn(one, solve(matmul_nt(one, one), identity(kRank)));
      for (const std::size_t iterations : {0U, 1U, 2U, 4U}) {
        const Frames found = leading_frames(
            g, kRank, iterations, from_left ? Frames{transpose(start), {}} : Frames{{}, start});
        EXPECT_TRUE(orthonormal_rows_are(found.v));
        EXPECT_TRUE(orthonormal_rows_are(transpose(found.u)));
        const double p = 2 * static_cast<double>(iterations) + 1;
        const double f = std::pow(gap, p) * norm(matmul(two, pseudo));
        const double allowed = captured * f * f / (1 + f * f) + kTolerance * captured;
        EXPECT_LE(captured - squared_norm(matmul_nt(g, found.v)), allowed) << iterations;
        EXPECT_LE(captured - squared_norm(matmul_tn(found.u, g)), allowed) << iterations;
      }
    }
  }
}

// 60 000 x 50 000 would be 24 GB.
TEST(LeadingFrames, OfSubspaceIterationNeverFormTheGradient) {
  constexpr Shape kHuge{60000, 50000};
  const Gradient g =
      Gradient::outer(share(draw({3, kHuge.rows}, 1)), share(draw({3, kHuge.cols}, 2)));
  const Frames found = leading_frames(g, 3, 1, {{}, draw({4, kHuge.cols}, 3)});
  EXPECT_NEAR(squared_norm(matmul_nt(g, found.v)) / squared_norm(g), 1, 1e-10);
}

TEST(LeadingFrames, DoNotDependOnHowTheGradientIsHeld) {
  Gradient lazy = Gradient::outer(share(draw({4, 9}, 1)), share(draw({4, 6}, 2)));
  lazy.add(Gradient::outer(share(draw({3, 9}, 3)), share(draw({3, 6}, 4))), 0.5);
  const Gradient dense = Gradient::dense(lazy.materialize());
  for (const char* spec :
       {"galore:rank=2", "galore:rank=2,projection=subspace", "fira:rank=2", "ldadam:rank=2"}) {
    Trial one(spec, "sgd", 1, zeros(kTall));
    Trial other(spec, "sgd", 1, zeros(kTall));
    one.optimizer.collect("w", lazy);
    other.optimizer.collect("w", dense);
    EXPECT_LE(distance(one.field("w.v"), other.field("w.v")), 1e-10) << spec;
  }
}

// A start near the answer: from the frames of a gradient that has turned a little since.
TEST(LeadingFrames, AreFoundInFewerIterationsFromTheLastOnes) {
  const auto captured = [](const char* options) {
    Trial run("galore:rank=3,refresh_every=1,projection=subspace,oversampling=0,iterations=0" +
                  std::string(options),
              "sgd", 0.1, zeros({40, 30}));
    double share = 0;
    for (std::size_t t = 0; t < 10; ++t) {
      const Matrix g = gradient({40, 30}, t);
      run.step(g);
      const Svd s = svd(g);
      double best = 0;
      for (std::size_t k = 0; k < 3; ++k) best += s.singular[k] * s.singular[k];
      if (t >= 5) share += squared_norm(run.projected(g)) / best / 5;
    }
    return share;
  };
  EXPECT_GT(captured(""), captured(",warm_start=false"));
}

const char* const kWarm =
    "galore:rank=3,refresh_every=2,projection=subspace,side=long,"
    "error_feedback=true";
const char* const kSpecs[] = {
    "galore:rank=3,refresh_every=2",
    "galore:rank=2,refresh_every=3,side=both,error_feedback=true",
    "galore:rank=3,refresh_every=2,projection=subspace,oversampling=1,warm_start=false",
    kWarm,
    "fira:rank=3,refresh_every=2,scale=0.5",
    "fira:rank=2,refresh_every=3,residual=scaled,scale=0.5,side=left",
    "ldadam:rank=3",
    "ldadam:rank=2,error_feedback=false"};
const char* const kRules[] = {"sgd", "sgd:momentum=0.9", "adam", "adamw:weight_decay=0.1"};

TEST(OneSided, FramesStayOrthonormal) {
  for (const char* spec : kSpecs) {
    for (const Shape shape : kShapes) {
      Trial run(spec, "adam", 0.01, draw(shape, 1));
      for (std::size_t t = 0; t < 7; ++t) run.step(gradient(shape, t));
      const Matrix v = run.field("w.v");
      const Matrix u = run.field("w.u");
      EXPECT_GT(v.size() + u.size(), 0u) << spec;
      if (v.size() > 0) {
        EXPECT_TRUE(orthonormal_rows_are(v)) << spec;
      }
      if (u.size() > 0) {
        EXPECT_TRUE(orthonormal_rows_are(transpose(u))) << spec;
      }
    }
  }
}

// The step of the transposed matrix under the transposed gradient is the transposed step. When frames
// on both sides are new, what they see of G is diagonal up to rounding, which Adam would raise by 1/ε.
TEST(OneSided, StepsOfTheTransposeAreTheTransposedSteps) {
  for (const char* spec :
       {"galore:rank=3,refresh_every=2",
        "galore:rank=2,refresh_every=3,side=both,error_feedback=true",
        "galore:rank=2,refresh_every=2,side=long",
        "galore:rank=2,refresh_every=2,projection=subspace,oversampling=2,warm_start=false",
        "galore:rank=2,refresh_every=2,projection=subspace",
        "fira:rank=3,refresh_every=2,scale=0.5", "ldadam:rank=3"}) {
    for (const char* rule : {"sgd", "sgd:momentum=0.9", "adam:eps=0.001", "adamw:eps=0.001"}) {
      Trial one(spec, rule, 0.01, draw(kTall, 1));
      Trial other(spec, rule, 0.01, transpose(one.w));
      for (std::size_t t = 0; t < 7; ++t) {
        one.step(gradient(kTall, t));
        other.step(transpose(gradient(kTall, t)));
      }
      EXPECT_LE(distance(one.w, transpose(other.w)), 100 * kTolerance) << spec << " " << rule;
    }
  }
}

TEST(OneSided, AFullRankFrameChangesNothingForDescentButAdam) {
  for (const char* spec : {"galore:rank=99,refresh_every=3,side=left",
                           "galore:rank=99,refresh_every=1,side=right,error_feedback=true",
                           "galore:rank=99,refresh_every=2,projection=subspace,side=both"}) {
    for (const std::string rule : {"sgd", "sgd:weight_decay=0.1", "adam", "sgd:momentum=0.9"}) {
      Trial one(spec, rule + (rule == "sgd:momentum=0.9" ? ",transport=project" : ""), 0.1,
                draw(kSquare, 1));
      Trial full("full", rule, 0.1, one.w);
      for (std::size_t t = 0; t < 7; ++t) {
        one.step(gradient(kSquare, t));
        full.step(gradient(kSquare, t));
      }
      if (rule == "adam") {  // element by element in turned coordinates
        EXPECT_GT(distance(one.w, full.w), 0.01) << spec;
      } else {
        EXPECT_LE(distance(one.w, full.w), 100 * kTolerance) << spec << " " << rule;
      }
    }
  }
}

// The same subspace in another basis: descent takes the same step, Adam another.
TEST(OneSided, DescentDoesNotSeeTheBasisButAdamDoes) {
  const auto gap = [](const char* rule) {
    Trial one("galore:rank=3", rule, 0.1, draw(kTall, 1));
    one.step(gradient(kTall, 0));
    Trial other("galore:rank=3", rule, 0.1, draw(kTall, 1));
    other.step(gradient(kTall, 0));
    const Matrix turn = random_rotation(3, 1);
    other.w = one.w;
    other.set("w.v", matmul(turn, other.field("w.v")));
    for (const char* moment : {"w.moments.0.first", "w.moments.0.second"}) {
      for (Trial* run : {&one, &other}) {
        const Matrix value = run->field(moment);
        if (value.size() > 0) run->set(moment, zeros(shape_of(value)));
      }
    }
    for (std::size_t t = 1; t < 4; ++t) {
      one.step(gradient(kTall, t));
      other.step(gradient(kTall, t));
    }
    return distance(one.w, other.w);
  };
  EXPECT_LE(gap("sgd"), kTolerance);
  EXPECT_LE(gap("sgd:momentum=0.9"), kTolerance);
  EXPECT_GT(gap("adam"), 0.01);
}

TEST(OneSided, ScaleAndLearningRateAreOneNumber) {
  Trial one("galore:rank=3,scale=0.25", "adam", 0.04, draw(kTall, 1));
  Trial other("galore:rank=3", "adam", 0.01, draw(kTall, 1));
  for (std::size_t t = 0; t < 5; ++t) {
    one.step(gradient(kTall, t));
    other.step(gradient(kTall, t));
  }
  EXPECT_LE(distance(one.w, other.w), kTolerance);
}

TEST(OneSided, AGradientThatIsNotFiniteLeavesTheFrames) {
  for (const char* spec : kSpecs) {
    Trial run(spec, "adam", 0.01, draw(kTall, 1));
    for (std::size_t t = 0; t < 6; ++t) run.step(gradient(kTall, t));
    const Matrix v = run.field("w.v");
    const Matrix u = run.field("w.u");
    Matrix broken = gradient(kTall, 6);
    broken(2, 3) = std::nan("");
    EXPECT_NO_THROW(run.step(broken)) << spec;
    EXPECT_EQ(run.field("w.v"), v) << spec;
    EXPECT_EQ(run.field("w.u"), u) << spec;
    Trial first(spec, "adam", 0.01, draw(kTall, 1));
    EXPECT_NO_THROW(first.step(broken)) << spec;
  }
}

// All state is in fields: a run that is taken up again goes on bit for bit, with clipping, several
// micro-batches, and every rule.
TEST(OneSided, RunsAreResumedExactly) {
  for (const char* spec : kSpecs) {
    for (const char* rule : kRules) {
      Trial one(spec, rule, 0.05, draw(kWide, 1), 2);
      const auto parts = [](std::size_t t) {
        return std::vector<Matrix>{gradient(kWide, 2 * t), gradient(kWide, 2 * t + 1)};
      };
      for (std::size_t t = 0; t < 5; ++t) one.step(parts(t));
      Trial again(spec, rule, 0.05, one.w, 2);
      one.optimizer.fields(
          [&](std::string_view name, Matrix& value, Role) { again.set(std::string(name), value); });
      for (std::size_t t = 5; t < 9; ++t) {
        one.step(parts(t));
        again.step(parts(t));
      }
      EXPECT_EQ(one.w, again.w) << spec << " " << rule;
    }
  }
}

TEST(OneSided, MicroBatchesAddUpToTheirMean) {
  for (const char* spec : kSpecs) {
    for (const char* rule : kRules) {
      Trial one(spec, rule, 0.05, draw(kTall, 1), 2);
      Trial parts(spec, rule, 0.05, draw(kTall, 1), 2);
      for (std::size_t t = 0; t < 5; ++t) {  // the first part is in proportion: the same frames
        const Matrix g = gradient(kTall, t);
        Matrix small = g;
        Matrix large = g;
        scale(small, 0.5);
        scale(large, 1.5);
        one.step(g);
        parts.step({small, large});
      }
      const double off = distance(one.w, parts.w);
      // Its frames follow the error too, which is not in proportion to the first part.
      if (std::string(spec).find("error_feedback=true") == std::string::npos &&
          std::string(spec).find("ldadam") == std::string::npos) {
        EXPECT_LE(off, 100 * kTolerance) << spec << " " << rule;
      }
      EXPECT_TRUE(all_finite(parts.w)) << spec << " " << rule;
    }
  }
}

TEST(OneSided, EveryRuleLowersAQuadratic) {
  for (const char* spec : kSpecs) {
    for (const char* rule : kRules) {
      const Matrix target = draw(kWide, 1);
      Trial run(spec, rule, 0.02, zeros(kWide), 3);
      for (std::size_t t = 0; t < 60; ++t) run.step(difference(run.w, target));
      EXPECT_LT(distance(run.w, target), norm(target)) << spec << " " << rule;
    }
  }
}

TEST(ErrorFeedback, AppliesInTheEndAllThatCame) {
  for (const char* spec : {"galore:rank=2,refresh_every=3,error_feedback=true",
                           "galore:rank=2,refresh_every=1,side=both,error_feedback=true",
                           "galore:rank=2,refresh_every=2,side=long,projection=subspace,"
                           "error_feedback=true",
                           "ldadam:rank=2"}) {
    for (const Shape shape : kShapes) {
      Trial run(spec, "sgd", 0.1, draw(shape, 1));
      const Matrix start = run.w;
      Matrix all = zeros(shape);
      for (std::size_t t = 0; t < 9; ++t) {
        const Matrix one = gradient(shape, 2 * t);
        const Matrix two = gradient(shape, 2 * t + 1);
        run.step({one, two});
        axpy(all, 0.5, one);
        axpy(all, 0.5, two);
      }
      Matrix applied = difference(start, run.w);
      scale(applied, 10);
      const Matrix error = run.field("w.error");
      EXPECT_GT(norm(error), 0.01 * norm(all)) << spec;  // it holds something
      axpy(applied, 1, error);
      EXPECT_LE(distance(applied, all), 100 * kTolerance) << spec << " " << to_string(shape);
    }
  }
}

TEST(ErrorFeedback, IsOneMatrixOfState) {
  const Count with = count_numbers(parse_spec("galore:rank=2,error_feedback=true"), kTall);
  const Count without = count_numbers(parse_spec("galore:rank=2"), kTall);
  EXPECT_EQ(with.stored, without.stored + kTall.size());
  EXPECT_EQ(with.trained, without.trained);
}

// m ← μ C m + Jᵀ A with e ← A − J Jᵀ A + μ (J_old m − J C m) gives M_t = μ M_{t−1} + G_t + e_{t−1} −
// e_t for the lifted averages M, hence (1 − μ) Σ M + μ M_T + e_T = Σ G.
TEST(Ldadam, ErrorFeedbackHoldsWhatTheMomentumLosesToo) {
  constexpr double kMu = 0.8, kLr = 0.1;
  for (const Shape shape : kShapes) {
    Trial run("ldadam:rank=2", "sgd:momentum=0.8", kLr, draw(shape, 1));
    const Matrix start = run.w;
    Matrix all = zeros(shape);
    Matrix last = run.w;
    for (std::size_t t = 0; t < 9; ++t) {
      last = run.w;
      run.step(gradient(shape, t));
      axpy(all, 1, gradient(shape, t));
    }
    Matrix accounted = run.field("w.error");
    axpy(accounted, (1 - kMu) / kLr, difference(start, run.w));
    axpy(accounted, kMu / kLr, difference(last, run.w));
    EXPECT_LE(distance(accounted, all), 100 * kTolerance) << to_string(shape);
  }
}

// Dense, from the equations, with the moments' bias corrections spelled out.
TEST(Ldadam, TakesTheStepsOfItsEquations) {
  constexpr double kBeta1 = 0.908, kBeta2 = 0.99, kRho = 0.7, kLr = 0.01;
  const auto power = [](double b, std::size_t t) { return std::pow(b, static_cast<double>(t)); };
  Trial run("ldadam:rank=2,rho=0.7", "adam:beta1=0.908,beta2=0.99", kLr, draw(kTall, 1));
  Matrix w = run.w;
  Matrix v, m = zeros({9, 2}), second = zeros({9, 2}), e = zeros(kTall);
  for (std::size_t t = 0; t < 8; ++t) {
    Matrix a = gradient(kTall, t);
    run.step(a);
    axpy(a, 1, e);
    const Matrix old = v;
    Matrix lost = zeros(kTall);
    if (t == 0) {
      v = leading_frames(Gradient::dense(a), 2).v;
    } else {
      Matrix b = matmul(m, v);
      scale(b, kRho / (1 - power(kBeta1, t)));
      axpy(b, 1 - kRho, a);
      v = orthonormal_rows(matmul_tn(matmul_nt(b, v), b));
      const Matrix c = matmul_nt(old, v);
      const Matrix turned = matmul(m, c);
      lost = difference(matmul(m, old), matmul(turned, v));
      const double w1 = 1 - power(kBeta1, t), w2 = 1 - power(kBeta2, t);
      Matrix moved = zeros({9, 2});
      for (std::size_t i = 0; i < 9; ++i) {
        for (std::size_t k = 0; k < 2; ++k) {
          for (std::size_t l = 0; l < 2; ++l) {
            moved(i, k) += (second(i, l) / w2 - std::pow(m(i, l) / w1, 2)) * c(l, k) * c(l, k);
          }
          moved(i, k) = w2 * std::abs(moved(i, k) + std::pow(turned(i, k) / w1, 2));
        }
      }
      m = turned;
      second = moved;
    }
    const Matrix r = matmul_nt(a, v);
    Matrix direction = r;
    for (std::size_t i = 0; i < r.size(); ++i) {
      Real& mi = m.data()[i];
      Real& vi = second.data()[i];
      mi = kBeta1 * mi + (1 - kBeta1) * r.data()[i];
      vi = kBeta2 * vi + (1 - kBeta2) * r.data()[i] * r.data()[i];
      direction.data()[i] =
          mi / (1 - power(kBeta1, t + 1)) / (std::sqrt(vi / (1 - power(kBeta2, t + 1))) + 1e-8);
    }
    add_matmul(w, -kLr, direction, v);
    e = difference(a, matmul(r, v));
    axpy(e, kBeta1 / (1 - kBeta1), lost);
    EXPECT_LE(distance(run.w, w), 10 * kTolerance) << t;
    EXPECT_LE(distance(run.field("w.error"), e), 100 * kTolerance) << t;
  }
}

TEST(OneSided, TransportedSecondMomentsNeverBecomeNegative) {
  for (const char* spec : {"ldadam:rank=3", "galore:rank=3,refresh_every=1",
                           "galore:rank=3,refresh_every=5,projection=subspace,side=both"}) {
    Trial run(spec, "adam:beta1=0.9,beta2=0.95,transport=rotate", 0.01, draw(kTall, 1));
    for (std::size_t t = 0; t < 300; ++t) {
      Matrix g = draw(kTall, 1000 + t);  // no subspace lasts
      scale(g, t % 7 == 0 ? 10 : 0.1);
      run.step(g);
      const Matrix second = run.field("w.moments.0.second");
      ASSERT_GE(*std::min_element(second.begin(), second.end()), 0) << spec << " step " << t;
    }
    EXPECT_TRUE(all_finite(run.w)) << spec;
  }
}

// Where N = R, and where the moments are those of the whole gradient, nothing is left out. Both norms
// in φ are a few tenths at least, so that its 10⁻⁸ is worth less than 10⁻⁷ of a step.
TEST(Fira, IsTheFullMethodUnderDescentAndWithMomentsOnTheWeight) {
  for (const char* rule : {"sgd", "adam:moments=weight", "sgd:momentum=0.9,moments=weight"}) {
    for (const Shape shape : kShapes) {
      Trial one("fira:rank=2,refresh_every=2,growth_limit=0", rule, 0.1, draw(shape, 1));
      Trial full("full", rule, 0.1, draw(shape, 1));
      for (std::size_t t = 0; t < 6; ++t) {
        const Matrix before = full.w;
        one.step(gradient(shape, t));
        full.step(gradient(shape, t));
        EXPECT_LE(distance(one.w, full.w), 1e-6 * static_cast<double>(t + 1)) << rule;
        EXPECT_GT(distance(before, full.w), 0.1);
      }
    }
  }
}

TEST(Fira, LetsTheRestGrowByOnePercentPerStep) {
  Trial run("fira:rank=2,refresh_every=100", "sgd", 0.1, draw(kTall, 1));
  double last = 0;
  for (std::size_t t = 0; t < 6; ++t) {
    Matrix g = gradient(kTall, t);
    scale(g, t == 3 ? 100 : 1);
    const Matrix before = run.w;
    run.step(g);
    Matrix moved = difference(before, run.w);
    axpy(moved, -1, run.projected(moved));  // S: its rows are orthogonal to those of v
    const double length = norm(moved) / 0.1;
    if (t > 0) {
      EXPECT_LE(length, 1.01 * (last + 1e-8) * (1 + 100 * kEps)) << t;
    }
    if (t == 3) {
      EXPECT_GT(length, 1.009 * last);
    }
    last = length;
  }
}

}  // namespace
}  // namespace gradview
