// One test per equation of the article: Su, "LoRA from a gradient perspective: introduction,
// analysis, conjectures and extensions" (blog post 9590, 2023), by the sections of its summary in
// ../shared/seeds/000: 1 LoRA, 2 gradient analysis, 3 the optimiser's view, 4 symmetric
// initialisation, 5 random projection, 6 the additive split. Its A (m x r) is u here, its B (r x n)
// is v, and ΔW = s u v. After them: where the moments live when the subspace moves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// Entries are at most some 30 and each is a sum of fewer than 100 products: 100 · 30 · 2.2e-16.
constexpr double kTolerance = 1e-12;
constexpr Shape kShape{7, 5};

Matrix draw(Shape shape, std::size_t which, double deviation = 1) {
  return normal(shape, deviation, Stream(1, Purpose::test, "derivation", which));
}

Matrix plus(Matrix a, double s, const Matrix& b) {
  axpy(a, s, b);
  return a;
}

Matrix scaled(Matrix a, double s) {
  scale(a, s);
  return a;
}

double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }

testing::AssertionResult near(const Matrix& got, const Matrix& want,
                              double tolerance = kTolerance) {
  const auto [m, n] = shape_of(want);
  if (shape_of(got) != shape_of(want)) {
    return testing::AssertionFailure() << to_string(shape_of(got)) << " for " << m << " x " << n;
  }
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      if (std::abs(got(i, j) - want(i, j)) <= tolerance) continue;
      return testing::AssertionFailure()
             << "(" << i << ", " << j << ") is " << got(i, j) << ", expected " << want(i, j);
    }
  }
  return testing::AssertionSuccess();
}

// Means over draws, entry by entry.
class Mean {
 public:
  void add(const Matrix& x) {
    if (count_++ == 0) total_ = squares_ = zeros(shape_of(x));
    axpy(total_, 1, x);
    for (std::size_t i = 0; i < x.size(); ++i) squares_.data()[i] += x.data()[i] * x.data()[i];
  }
  void add(double x) { add(matrix({{x}})); }
  // Five standard errors: one entry in two million would be farther off by chance. The rounding is
  // for entries that do not vary.
  testing::AssertionResult agrees(const Matrix& want) const {
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double mean = total_.data()[i] / count_;
      const double variance = std::max(0.0, squares_.data()[i] / count_ - mean * mean);
      const double allowed = 5 * std::sqrt(variance / count_) + 1e-10;
      if (std::abs(mean - want.data()[i]) <= allowed) continue;
      return testing::AssertionFailure() << "the mean of entry " << i << " is " << mean << ", not "
                                         << want.data()[i] << " ± " << allowed;
    }
    return testing::AssertionSuccess();
  }
  testing::AssertionResult agrees(double want) const { return agrees(matrix({{want}})); }

 private:
  double count_ = 0;
  Matrix total_, squares_;
};

Matrix& field(Projector& projector, const std::string& name) {
  Matrix* found = nullptr;
  projector.fields([&](std::string_view each, Matrix& value, Role) {
    if (each == name) found = &value;
  });
  if (!found) throw std::invalid_argument("no field " + name);
  return *found;
}

std::unique_ptr<Projector> make(const std::string& spec, const Matrix& w, std::uint64_t seed = 1) {
  return make_projector(parse_spec(spec), Site{"w", w, seed});
}

OptimizerSpec rule(const std::string& spec) { return make_optimizer_spec(parse_spec(spec)); }

// One weight, its projector and the optimiser.
struct Trained {
  Trained(const std::string& projector, OptimizerSpec spec, double lr, Shape shape = kShape,
          std::uint64_t seed = 1, double clip = std::numeric_limits<double>::infinity())
      : w(draw(shape, 100)),
        optimizer({.spec = std::move(spec), .lr = lr, .seed = seed, .clip = clip}) {
    optimizer.add("w", w, make(projector, w, seed));
  }
  Trained(const std::string& projector, const std::string& spec, double lr, Shape shape = kShape,
          std::uint64_t seed = 1)
      : Trained(projector, rule(spec), lr, shape, seed) {}

  Projector& projector() { return optimizer.projector("w"); }
  Matrix& operator[](const std::string& name) { return field(projector(), name); }
  void step(const Matrix& g) {
    optimizer.collect("w", Gradient::dense(g));
    optimizer.step();
  }
  // LoRA away from the zeros that it starts with.
  void leave_the_start() {
    Matrix& u = (*this)["u"];
    u = draw(shape_of(u), 101);
  }

  Matrix w;
  Optimizer optimizer;
};

Matrix tangent(const Projector& projector, const Matrix& g) {  // T(G) = J Jᵀ G
  Matrix out = zeros(shape_of(g));
  projector.lift(projector.project(Gradient::dense(g), out), out);
  return out;
}

struct Scaled {
  std::string projector;
  double s;
};
const std::vector<Scaled> kLoras{{"lora:rank=2,alpha=3", 1.5},
                                 {"lora:rank=3,alpha=2,scaling=rslora", 2 / std::sqrt(3.0)},
                                 {"lora:rank=2,alpha=5,init=symmetric", 2.5}};

// Section 1: W = W₀ + A B, and W = W₀ at first.
TEST(Section1, WeightIsItsStartPlusTheProductOfTheFactors) {
  for (const auto& [projector, s] : kLoras) {
    Trained one(projector, "sgd", 0.1);
    const Matrix start = plus(one.w, -s, matmul(one["u"], one["v"]));  // W₀, or W₀ − A₀B₀
    EXPECT_EQ(one.w, draw(kShape, 100)) << projector;
    for (std::size_t t = 0; t < 5; ++t) one.step(draw(kShape, t));
    EXPECT_GT(norm(difference(one.w, start)), 0.1);
    EXPECT_TRUE(near(one.w, plus(start, s, matmul(one["u"], one["v"])))) << projector;
  }
}

TEST(Section1, OneFactorIsZeroAtFirst) {
  for (const char* init : {"zero", "gaussian"}) {
    Trained one("lora:rank=2,alpha=3,init=" + std::string(init), "sgd", 0.1);
    EXPECT_EQ(squared_norm(one["u"]), 0) << init;
    EXPECT_GT(squared_norm(one["v"]), 0) << init;
  }
}

// Section 2: ∂L/∂A = G Bᵀ, ∂L/∂B = Aᵀ G.
TEST(Section2, FactorGradientsAreTheProjectedGradient) {
  const Matrix g = draw(kShape, 1);
  for (const auto& [projector, s] : kLoras) {
    Trained one(projector, "sgd", 0.1);
    one.leave_the_start();
    const Factors pulled = one.projector().project(Gradient::dense(g), one.w);
    EXPECT_TRUE(near(pulled[0], scaled(matmul_nt(g, one["v"]), s))) << projector;
    EXPECT_TRUE(near(pulled[1], scaled(matmul_tn(one["u"], g), s))) << projector;
  }
}

// L = ½‖(W₀ + s u v) X − Y‖² is quadratic in each entry of a factor: central differences have no
// truncation error, and round by ε L / h = 2.2e-16 · 500 / 1e-3.
TEST(Section2, FactorGradientsAreThoseOfTheLoss) {
  constexpr double kStep = 1e-3;
  const Matrix x = draw({kShape.cols, 6}, 1);
  const Matrix y = draw({kShape.rows, 6}, 2);
  for (const auto& [projector, s] : kLoras) {
    Trained one(projector, "sgd", 0.1);
    one.leave_the_start();
    const auto residual = [&, s = s] {
      return difference(matmul(plus(one.w, s, matmul(one["u"], one["v"])), x), y);
    };
    const Gradient g = Gradient::dense(matmul_nt(residual(), x));
    const Factors pulled = one.projector().project(g, one.w);
    std::size_t k = 0;
    for (const char* name : {"u", "v"}) {
      Matrix numeric = one[name];
      for (std::size_t i = 0; i < numeric.size(); ++i) {
        double& entry = one[name].data()[i];
        const double before = entry;
        entry = before + kStep;
        const double above = squared_norm(residual()) / 2;
        entry = before - kStep;
        const double below = squared_norm(residual()) / 2;
        entry = before;
        numeric.data()[i] = (above - below) / (2 * kStep);
      }
      EXPECT_TRUE(near(pulled[k++], numeric, 1e-9)) << projector << " " << name;
    }
  }
}

// Section 3: A_{t+1} = A_t − η G Bᵀ, B_{t+1} = B_t − η Aᵀ G, W_{t+1} = W_t + A_{t+1}B_{t+1} −
// A_tB_t.
TEST(Section3, SgdMovesTheFactorsAndTheWeightFollows) {
  constexpr double kRate = 0.3;
  for (const auto& [projector, s] : kLoras) {
    Trained one(projector, "sgd", kRate);
    one.leave_the_start();
    for (std::size_t t = 0; t < 3; ++t) {
      const Matrix g = draw(kShape, t);
      const Matrix u = one["u"], v = one["v"], w = one.w;
      one.step(g);
      EXPECT_TRUE(near(one["u"], plus(u, -kRate * s, matmul_nt(g, v)))) << projector;
      EXPECT_TRUE(near(one["v"], plus(v, -kRate * s, matmul_tn(u, g)))) << projector;
      const Matrix moved = difference(matmul(one["u"], one["v"]), matmul(u, v));
      EXPECT_TRUE(near(one.w, plus(w, s, moved), 1e-11)) << projector;  // three steps of growth
    }
  }
}

TEST(Section3, AdamAveragesTheProjectedGradientOnly) {
  constexpr std::size_t kRank = 2;
  const auto [m, n] = kShape;
  const auto numbers = [](const std::string& projector, const std::string& optimizer) {
    return Trained(projector, optimizer, 0.1).optimizer.state_bytes() / sizeof(Real);
  };
  EXPECT_EQ(numbers("lora:rank=2", "adam"), 2 * kRank * (m + n));
  EXPECT_EQ(numbers("lora:rank=2", "adam:moments=none"), kRank * (m + n));
  EXPECT_EQ(numbers("lora:rank=2", "sgd:momentum=0.9"), kRank * (m + n));
  EXPECT_EQ(numbers("lora:rank=2", "sgd"), 0u);
  EXPECT_EQ(numbers("full", "adam"), 2 * m * n);
  EXPECT_EQ(numbers("additive", "adam"), 2 * (m + n));
  EXPECT_EQ(numbers("random:rank=2", "adam"), 2 * m * n);  // on the weight
}

// Section 4: W = W₀ − A₀B₀ + A B with both factors live.
TEST(Section4, SymmetricAdapterLeavesTheBaseUnchanged) {
  constexpr double kScale = 2.5;
  Trained one("lora:rank=2,alpha=5,init=symmetric", "sgd", 0.1);
  const Matrix base = draw(kShape, 100);
  const Matrix u0 = one["u"], v0 = one["v"];
  EXPECT_EQ(one.w, base);  // making the projector does not touch W
  EXPECT_GT(norm(matmul(u0, v0)), 0.1);
  // As a plain adapter of rank 2r on the untouched base: s [u | u₀] [v ; −v₀].
  const auto adapter = [&] {
    Matrix left = uninitialized({kShape.rows, 4}), right = uninitialized({4, kShape.cols});
    for (std::size_t k = 0; k < 2; ++k) {
      for (std::size_t i = 0; i < kShape.rows; ++i) {
        left(i, k) = one["u"](i, k);
        left(i, k + 2) = u0(i, k);
      }
      for (std::size_t j = 0; j < kShape.cols; ++j) {
        right(k, j) = one["v"](k, j);
        right(k + 2, j) = -v0(k, j);
      }
    }
    return scaled(matmul(left, right), kScale);
  };
  const Matrix x = draw({kShape.cols, 3}, 1);
  EXPECT_TRUE(near(matmul(plus(base, 1, adapter()), x), matmul(base, x)));
  for (std::size_t t = 0; t < 5; ++t) one.step(draw(kShape, t));
  EXPECT_GT(norm(difference(one.w, base)), 0.1);
  EXPECT_TRUE(near(plus(base, 1, adapter()), one.w));
}

TEST(Section4, SymmetricStartIsBalanced) {
  Trained one("lora:rank=3,alpha=5,init=symmetric", "sgd", 0.1);
  const double square = 7.0 / (3 * (7 + 5));  // c² = m / 3(m + n)
  EXPECT_TRUE(near(matmul_tn(one["u"], one["u"]), scaled(identity(3), square)));
  EXPECT_TRUE(near(matmul_nt(one["v"], one["v"]), scaled(identity(3), square)));
}

TEST(Section4, SymmetricAndZeroStartHaveTheSameExpectedGain) {
  constexpr double kRank = 2, kScale = 2.5;
  for (const Shape shape : {Shape{7, 5}, Shape{4, 9}}) {
    const auto m = static_cast<double>(shape.rows), n = static_cast<double>(shape.cols);
    const Matrix gradient = draw(shape, 1);
    const double expected = kScale * kScale * kRank / (3 * n);
    const double c2 = m / (3 * (m + n));
    EXPECT_NEAR(kScale * kScale * c2 * (kRank / n + kRank / m), expected, kTolerance);
    for (const char* init : {"zero", "symmetric"}) {
      Mean gain;
      for (std::uint64_t seed = 0; seed < 3000; ++seed) {
        const auto projector =
            make("lora:rank=2,alpha=5,init=" + std::string(init), gradient, seed);
        double pulled = 0;  // ⟨G, T(G)⟩ = ‖JᵀG‖²
        for (const Matrix& factor : projector->project(Gradient::dense(gradient), gradient)) {
          pulled += squared_norm(factor);
        }
        gain.add(pulled / squared_norm(gradient));
      }
      EXPECT_TRUE(gain.agrees(expected)) << init << " on " << to_string(shape);
    }
  }
}

// Section 5: A'B' − AB = −η (G BᵀB + A AᵀG) + η² G BᵀAᵀG, here with s² and s³.
TEST(Section5, SgdStepIsTheTangentStepAndItsSecondOrderTerm) {
  constexpr double kRate = 0.3;
  const Matrix g = draw(kShape, 1);
  for (const auto& [projector, s] : kLoras) {
    Trained one(projector, "sgd", kRate);
    one.leave_the_start();
    const Matrix u = one["u"], v = one["v"], w = one.w;
    const Matrix first = plus(matmul(matmul_nt(g, v), v), 1, matmul(u, matmul_tn(u, g)));
    const Matrix second = matmul(matmul_nt(g, v), matmul_tn(u, g));
    one.optimizer.observe();
    one.step(g);
    Matrix expected = plus(w, -kRate * s * s, first);
    axpy(expected, kRate * kRate * s * s * s, second);
    EXPECT_TRUE(near(one.w, expected)) << projector;
    const double ratio = kRate * s * norm(second) / norm(first);
    EXPECT_NEAR(one.optimizer.observation().second_order(), ratio, 1e-12 * ratio) << projector;
  }
}

TEST(Section5, TangentMapIsSelfAdjointPositiveAndOfRankTwoR) {
  const Shape shape{9, 8};
  const Matrix g = draw(shape, 1), h = draw(shape, 2);
  for (const char* spec :
       {"lora:rank=2,alpha=5", "random:rank=2,normalise=raw", "additive:rank=2,frames=raw"}) {
    Trained one(spec, "sgd", 0.1, shape);
    if (std::string(spec).starts_with("lora")) one.leave_the_start();
    const Matrix tg = tangent(one.projector(), g), th = tangent(one.projector(), h);
    EXPECT_NEAR(dot(tg, h), dot(g, th), 1e-13 * norm(tg) * norm(h)) << spec;
    double pulled = 0;
    for (const Matrix& factor : one.projector().project(Gradient::dense(g), g)) {
      pulled += squared_norm(factor);
    }
    EXPECT_NEAR(dot(g, tg), pulled, 1e-13 * pulled) << spec;
    EXPECT_GT(pulled, 0) << spec;
    const std::vector<double> singular = svd(tg).singular;
    EXPECT_GT(singular[3], 1e-3 * singular[0]) << spec;
    EXPECT_LT(singular[4], 1e-14 * static_cast<double>(shape.size()) * singular[0]) << spec;
  }
}

TEST(Section5, AnotherGaugeIsTheSameWeightButAnotherStep) {
  const Matrix g = draw(kShape, 1);
  const Matrix turn = matrix({{0.6, -0.8}, {0.8, 0.6}});
  const Matrix stretch = matrix({{2, 1}, {0, 0.5}}), inverse = matrix({{0.5, -1}, {0, 2}});
  Trained one("lora:rank=2,alpha=3", "sgd", 0.1);
  one.leave_the_start();
  const Matrix u = one["u"], v = one["v"], before = tangent(one.projector(), g);
  const auto regauge = [&](const Matrix& r, const Matrix& r_inverse) {
    one["u"] = matmul(u, r);
    one["v"] = matmul(r_inverse, v);
    EXPECT_TRUE(near(matmul(one["u"], one["v"]), matmul(u, v)));
    return norm(difference(tangent(one.projector(), g), before));
  };
  EXPECT_LT(regauge(turn, transpose(turn)), kTolerance);
  EXPECT_GT(regauge(stretch, inverse), 0.1 * norm(before));
}

// d(uᵀu − vvᵀ)/dt = 0 along the gradient flow; a step of SGD changes it by η²s²(v GᵀG vᵀ − uᵀG
// Gᵀu).
TEST(Section5, SgdConservesTheBalanceToSecondOrder) {
  const Matrix g = draw(kShape, 1);
  const auto balance = [](Trained& one) {
    return difference(matmul_tn(one["u"], one["u"]), matmul_nt(one["v"], one["v"]));
  };
  for (const double lr : {0.4, 0.2, 0.1}) {
    Trained one("lora:rank=2,alpha=3", "sgd", lr);
    one.leave_the_start();
    const Matrix gv = matmul_nt(g, one["v"]), ug = matmul_tn(one["u"], g), before = balance(one);
    one.step(g);
    const Matrix drift = difference(matmul_tn(gv, gv), matmul_nt(ug, ug));
    EXPECT_TRUE(near(balance(one), plus(before, lr * lr * 1.5 * 1.5, drift)));
  }
}

TEST(Section5, BothFactorsZeroAreADeadSaddleAndRefused) {
  const Matrix g = draw(kShape, 1);
  for (const char* spec : {"lora:rank=2,alpha=3", "lora:rank=2,alpha=3,init=symmetric"}) {
    Trained one(spec, "adam", 0.1);
    for (const char* name : {"u", "v"}) one[name] = zeros(shape_of(one[name]));
    for (const Matrix& factor : one.projector().project(Gradient::dense(g), one.w)) {
      EXPECT_EQ(squared_norm(factor), 0);
    }
    EXPECT_THROW(one.optimizer.collect("w", Gradient::dense(g)), std::invalid_argument) << spec;
  }
  Trained linear("additive:rank=2", "sgd", 0.1);  // its zeros are alive
  EXPECT_NO_THROW(linear.step(g));
  EXPECT_GT(squared_norm(linear["u"]), 0);
}

// The frames of `random` as they are this step: J(x, y) = c(x b + aᵀ y) with unit blocks for x, y.
struct Frames {
  Frames(const Projector& projector, const std::string& sides, std::size_t r, double c,
         Shape shape = kShape) {
    const auto [m, n] = shape;
    Matrix x = zeros({m, r}), y = zeros({r, n});
    for (std::size_t k = 0; k < r; ++k) x(k, k) = y(k, k) = 1 / c;
    Matrix right = zeros(shape), left = zeros(shape);
    const Matrix no_x = zeros(shape_of(x)), no_y = zeros(shape_of(y));
    if (sides != "left") projector.lift(sides == "both" ? Factors{x, no_y} : Factors{x}, right);
    if (sides != "right") projector.lift(sides == "both" ? Factors{no_x, y} : Factors{y}, left);
    b = zeros({r, n});
    at = zeros({m, r});
    for (std::size_t k = 0; k < r; ++k) {
      for (std::size_t j = 0; j < n; ++j) b(k, j) = right(k, j);
      for (std::size_t i = 0; i < m; ++i) at(i, k) = left(i, k);
    }
  }
  Matrix at, b;  // m x r, r x n
};

TEST(Section5, RandomStepIsTheArticlesUpdate) {  // −η (G bᵀb + a aᵀG), a and b fresh every step
  const Matrix g = draw(kShape, 1);
  Trained one("random:normalise=raw", "sgd", 0.1);
  Matrix last = zeros(kShape);
  for (int step = 0; step < 3; ++step) {
    const Matrix before = one.w;
    one.step(g);
    const Frames f(one.projector(), "both", 1, 1);
    const Matrix update = plus(matmul(matmul_nt(g, f.b), f.b), 1, matmul(f.at, matmul_tn(f.at, g)));
    EXPECT_TRUE(near(one.w, plus(before, -0.1, update)));
    EXPECT_GT(norm(difference(update, last)), 0.1);
    last = update;
  }
}

TEST(Section5, FramesHaveUnitSecondMoment) {  // E[a aᵀ] = I, E[bᵀb] = I
  for (const char* family : {"gaussian", "rademacher", "haar"}) {
    Trained one("random:rank=2,family=" + std::string(family), "sgd", 0);
    Mean left, right;
    for (int step = 0; step < 4000; ++step) {
      one.step(zeros(kShape));
      const Frames f(one.projector(), "both", 2, std::sqrt(0.5));
      left.add(matmul_nt(f.at, f.at));
      right.add(matmul_tn(f.b, f.b));
    }
    EXPECT_TRUE(left.agrees(identity(kShape.rows))) << family;
    EXPECT_TRUE(right.agrees(identity(kShape.cols))) << family;
  }
}

struct Moment {
  std::string projector;
  double mean, variance;  // E T = mean · G, E‖T − mean G‖² = variance · ‖G‖²
};

// The step of SGD with fresh frames is that of full-rank SGD in the mean; what it is off by is
// known: methods.md 1.3 and 1.4 for m = 7, n = 5, r = 2 (or 3).
TEST(Section5, RandomIsFullRankInTheMeanWithKnownVariance) {
  const std::vector<Moment> moments{
      {"random:rank=2,sides=right", 1, 6.0 / 2},                    // (n + 1)/r
      {"random:rank=2,sides=left", 1, 8.0 / 2},                     // (m + 1)/r
      {"random:rank=2,sides=right,family=rademacher", 1, 4.0 / 2},  // (n − 1)/r
      {"random:rank=2,sides=left,family=rademacher", 1, 6.0 / 2},   // (m − 1)/r
      {"random:rank=2,sides=right,family=haar", 1, 3.0 / 2},        // (n − r)/r
      {"random:rank=2,sides=left,family=haar", 1, 5.0 / 2},         // (m − r)/r
      {"random:rank=2", 1, 14.0 / 8},                               // (m + n + 2)/4r
      {"random:rank=2,family=rademacher", 1, 10.0 / 8},             // (m + n − 2)/4r
      {"random:rank=2,family=haar", 1, 8.0 / 8},                    // (m + n − 2r)/4r
      {"random:rank=1,normalise=raw", 2, 14},                       // the article's: 2G for r = 1
      {"random:rank=3,normalise=raw", 6, 9 * 14.0 / 3},             // 2rG, r² times the variance
      {"random:rank=3,sides=left,normalise=raw", 3, 9 * 8.0 / 3}};
  const Matrix g = draw(kShape, 1);
  for (const auto& [projector, mean, variance] : moments) {
    Trained one(projector, "sgd", 1);
    Mean update, square;
    for (int step = 0; step < 6000; ++step) {
      one.w = zeros(kShape);
      one.step(g);
      update.add(scaled(one.w, -1));
      square.add(squared_norm(plus(one.w, mean, g)) / squared_norm(g));
    }
    EXPECT_TRUE(update.agrees(scaled(g, mean))) << projector;
    EXPECT_TRUE(square.agrees(variance)) << projector;
    const auto declared = one.projector().expectation();
    EXPECT_NEAR(declared->mean, mean, kTolerance) << projector;
    EXPECT_NEAR(declared->variance, variance, kTolerance) << projector;
  }
}

// L = ½‖W − W*‖², Gaussian frames: E‖E'‖²/‖E‖² = 1 − 2η + (η²/4)(m + n + 4r + 2)/r, smallest at
// η* = 4r/(m + n + 4r + 2), where it is 1 − η*, and 1 at 2η* (methods.md 1.5; 6/7 for r = 1 here).
TEST(Section5, RandomContractsAQuadraticAtTheKnownRate) {
  const Shape shape{12, 10};
  const Matrix error = draw(shape, 1);
  for (const double r : {1.0, 3.0}) {
    const double best = 4 * r / (22 + 4 * r + 2);
    for (const double lr : {best, 2 * best}) {
      Trained one("random:rank=" + std::to_string(static_cast<int>(r)), "sgd", lr, shape);
      Mean factor;
      for (int step = 0; step < 10000; ++step) {
        one.w = error;
        one.step(error);
        factor.add(squared_norm(one.w) / squared_norm(error));
      }
      EXPECT_TRUE(factor.agrees(lr == best ? 1 - best : 1)) << "r " << r << " lr " << lr;
    }
  }
}

// Section 6: W = W₀ + A 1 + 1 B; ∂L/∂A are the row sums of G, ∂L/∂B its column sums.
TEST(Section6, AdditiveGradientsAreRowAndColumnSums) {
  const Matrix g = draw(kShape, 1);
  Matrix rows = zeros({kShape.rows, 1}), columns = zeros({1, kShape.cols});
  for (std::size_t i = 0; i < kShape.rows; ++i) {
    for (std::size_t j = 0; j < kShape.cols; ++j) {
      rows(i, 0) += g(i, j);
      columns(0, j) += g(i, j);
    }
  }
  Trained one("additive:frames=raw", "sgd", 0.1);
  const Matrix start = one.w;
  one.optimizer.observe();
  one.step(g);
  EXPECT_TRUE(near(one["u"], scaled(rows, -0.1)));
  EXPECT_TRUE(near(one["v"], scaled(columns, -0.1)));
  Matrix expected = start;
  for (std::size_t i = 0; i < kShape.rows; ++i) {
    for (std::size_t j = 0; j < kShape.cols; ++j) {
      expected(i, j) -= 0.1 * (rows(i, 0) + columns(0, j));
    }
  }
  EXPECT_TRUE(near(one.w, expected));
  EXPECT_EQ(one.optimizer.observation().second_order(), 0);  // no η² term
}

TEST(Section6, AdditiveChangeHasRankTwoWhereLoraHasOne) {
  for (const auto& [spec, rank] :
       std::map<std::string, std::size_t>{{"additive", 2}, {"lora:rank=1", 1}}) {
    Trained one(spec, "sgd", 0.1);
    const Matrix start = one.w;
    for (std::size_t t = 0; t < 3; ++t) one.step(draw(kShape, t));
    const std::vector<double> singular = svd(difference(one.w, start)).singular;
    EXPECT_GT(singular[rank - 1], 1e-2 * singular[0]) << spec;
    EXPECT_LT(singular[rank], 1e-12) << spec;
  }
}

// J_d = [I_r I_r …], r x d, cut at d; rows of unit length where asked.
Matrix blocks(std::size_t r, std::size_t d, bool unit) {
  Matrix j = zeros({r, d});
  for (std::size_t i = 0; i < d; ++i) j(i % r, i) = 1;
  for (std::size_t k = 0; unit && k < r; ++k) {
    double count = 0;
    for (std::size_t i = 0; i < d; ++i) count += j(k, i) * j(k, i);
    for (std::size_t i = 0; i < d; ++i) j(k, i) /= std::sqrt(count);
  }
  return j;
}

TEST(Section6, BlockFormIsTheProductWithBlocksOfIdentities) {
  for (const Shape shape :
       {Shape{6, 9}, Shape{7, 5}, Shape{3, 8}}) {  // r divides both, neither, one
    const auto [m, n] = shape;
    for (const bool unit : {true, false}) {
      Trained one(unit ? "additive:rank=3" : "additive:rank=3,frames=raw", "sgd", 0.1, shape);
      const Matrix jn = blocks(3, n, unit), jm = blocks(3, m, unit), g = draw(shape, 1);
      const Factors pulled = one.projector().project(Gradient::dense(g), one.w);
      EXPECT_TRUE(near(pulled[0], matmul_nt(g, jn))) << to_string(shape);
      EXPECT_TRUE(near(pulled[1], matmul(jm, g))) << to_string(shape);
      const Matrix start = one.w;
      one.step(g);
      EXPECT_TRUE(
          near(one.w, plus(plus(start, 1, matmul(one["u"], jn)), 1, matmul_tn(jm, one["v"]))));
      Matrix explicit_step = plus(start, -0.1, matmul(matmul_nt(g, jn), jn));
      axpy(explicit_step, -0.1, matmul_tn(jm, matmul(jm, g)));
      EXPECT_TRUE(near(one.w, explicit_step)) << to_string(shape);
    }
  }
  EXPECT_TRUE(near(matmul_nt(blocks(3, 9, false), blocks(3, 9, false)), scaled(identity(3), 3)));
}

// After the article: Adam and momentum when the subspace moves (methods.md 2).

TEST(Moments, OnTheWeightProjectTheDirectionOfAdam) {
  const Adam adam;
  for (const char* moments : {"weight", "auto"}) {
    Trained one("random:rank=2", "adam:moments=" + std::string(moments), 0.1);
    Matrix w = one.w;
    const auto frames = make("random:rank=2", w);
    Moments state = adam.start(kShape);
    for (std::size_t t = 0; t < 5; ++t) {
      Matrix direction = draw(kShape, t);
      one.step(direction);
      adam(direction, state, w);
      frames->refresh(Gradient(kShape), Site{"w", w, 1, t});
      axpy(w, -0.1, tangent(*frames, direction));
      EXPECT_TRUE(near(one.w, w)) << moments << ", step " << t;
    }
  }
}

TEST(Moments, NoneKeepsNoFirstMoment) {
  const auto firsts = [](const std::string& optimizer) {
    Trained one("random:rank=2", optimizer, 0.1);
    for (std::size_t t = 0; t < 2; ++t) one.step(draw(kShape, t));
    int count = 0;
    one.optimizer.fields(
        [&](std::string_view name, Matrix&, Role) { count += name.ends_with(".first"); });
    return count;
  };
  EXPECT_EQ(firsts("adam:moments=none"), 0);
  EXPECT_EQ(firsts("sgd:moments=none"), 0);
  EXPECT_EQ(firsts("adam:moments=factors"), 2);
  EXPECT_EQ(firsts("adam"), 1);
}

// m ← β m + (1 − β) g, direction m. Given all that came before, only the newest of its terms has a
// mean in the coordinates of fresh frames, so the steps are uncorrelated and the standard error
// holds.
TEST(Moments, OnFreshFramesLoseTheirMomentum) {
  constexpr double kBeta = 0.75;
  const UpdateRule average{[](Shape shape) {
                             return Moments{0, zeros(shape), {}, {}, {}};
                           },
                           [](Matrix& g, Moments& m, const Matrix&) {
                             scale(m.first, kBeta);
                             axpy(m.first, 1 - kBeta, g);
                             g = m.first;
                           }};
  const Matrix g = draw(kShape, 1);
  const auto mean_step = [&](MomentsOn where, Transport how) {
    Trained one("random:rank=2", {.rule = average, .moments = where, .transport = how}, 1);
    Mean mean;
    for (int step = 0; step < 6000; ++step) {
      one.w = zeros(kShape);
      one.step(g);
      if (step >= 200) mean.add(scaled(one.w, -1));  // 0.75²⁰⁰ is 1e-25
    }
    return mean;
  };
  EXPECT_TRUE(mean_step(MomentsOn::factors, Transport::keep).agrees(scaled(g, 1 - kBeta)));
  EXPECT_FALSE(mean_step(MomentsOn::factors, Transport::keep).agrees(g));
  EXPECT_TRUE(mean_step(MomentsOn::weight, Transport::keep).agrees(g));
}

// The columns of G sum to zero before a softmax cross-entropy: v's gradient is rounding noise.
TEST(Moments, AdamDoesNotStepOnTheNoiseBeforeASoftmax) {
  const std::vector<std::uint8_t> labels{0, 3, 6, 1, 2, 5, 4, 3};
  const Matrix x = draw({8, kShape.cols}, 1);
  for (const bool before_softmax : {true, false}) {
    Matrix w = draw(kShape, 100);
    Optimizer optimizer({.spec = rule("adam"), .lr = 0.1});
    const Site site{.name = "w", .weight = w, .before_softmax = before_softmax};
    optimizer.add("w", w, make_projector(parse_spec("additive"), site), before_softmax);
    for (int step = 0; step < 20; ++step) {
      Matrix delta;
      softmax_cross_entropy(matmul_nt(x, w), labels, {}, &delta);
      optimizer.collect("w", Gradient::outer(share(delta), share(x)));
      optimizer.step();
    }
    EXPECT_GT(squared_norm(field(optimizer.projector("w"), "u")), 0.1);
    EXPECT_EQ(squared_norm(field(optimizer.projector("w"), "v")) == 0, before_softmax);
  }
}

struct DecayCase {
  std::string projector, optimizer;
  double u, w;  // what the decay leaves of u, and of W; towards its start where negative
};

// With β₁ = 0 a zero gradient gives a zero direction: what moves is the decay, lr λ = 0.5 · 0.4.
TEST(Decay, PullsWhatItIsAskedTo) {
  const std::string adamw = "adamw:beta1=0,weight_decay=0.4";
  const std::vector<DecayCase> cases{{"lora:rank=2,alpha=3", adamw, 0.8, 1},
                                     {"lora:rank=2,alpha=3", adamw + ",decay_on=factors", 0.8, 1},
                                     {"lora:rank=2,alpha=3", adamw + ",decay_on=initial", -0.8, 1},
                                     {"lora:rank=2,alpha=3", adamw + ",decay_on=weight", 1, 0.8},
                                     {"lora:rank=2,alpha=3", "sgd:weight_decay=0.4", 0.8, 1},
                                     {"additive:rank=2", adamw, 0.8, 1},
                                     {"full", adamw, 1, 0.8},  // θ is W
                                     {"full", adamw + ",decay_on=initial", 1, -0.8},
                                     {"full", "sgd:weight_decay=0.4", 1, 0.8},
                                     {"random:rank=2", adamw, 1, 0.8},  // no θ between steps
                                     {"random:rank=2", adamw + ",decay_on=initial", 1, -0.8}};
  for (const DecayCase& c : cases) {
    const bool factors = c.projector.starts_with("lora") || c.projector.starts_with("additive");
    Trained one(c.projector, c.optimizer, 0.5);
    const Matrix w0 = one.w;
    const Matrix u0 = factors ? one["u"] : Matrix();
    one.step(draw(kShape, 1));
    one.step(draw(kShape, 2));
    const Matrix w = one.w, u = factors ? one["u"] : Matrix();
    const Factors theta = one.projector().factors();
    one.step(zeros(kShape));
    const auto left = [](const Matrix& now, const Matrix& start, double share) {
      return share >= 0 ? scaled(now, share) : plus(scaled(now, -share), 1 + share, start);
    };
    if (factors) {
      EXPECT_TRUE(near(one["u"], left(u, u0, c.u))) << c.projector << " " << c.optimizer;
    }
    Matrix expected = left(w, w0, c.w);
    if (factors) {  // W follows its factors: ΔW(θ') − ΔW(θ)
      const Factors now = one.projector().factors();
      for (std::size_t i = 0; i < kShape.rows; ++i) {
        for (std::size_t j = 0; j < kShape.cols; ++j) {
          expected(i, j) +=
              one.projector().entry(now, {}, i, j) - one.projector().entry(theta, {}, i, j);
        }
      }
    }
    EXPECT_TRUE(near(one.w, expected)) << c.projector << " " << c.optimizer;
  }
}

TEST(Decay, OnFactorsThatDoNotExistIsRefused) {
  EXPECT_THROW(Trained("random:rank=2", "adamw:decay_on=factors", 0.1), std::invalid_argument);
  EXPECT_NO_THROW(Trained("random:rank=2,refresh_every=0", "adamw", 0.1));
}

TEST(Decay, LeavesWhatIsAddedAsUndecayed) {
  Matrix bias = draw({1, 5}, 1);
  const Matrix before = bias;
  Optimizer optimizer({.spec = rule("adamw:weight_decay=0.4"), .lr = 0.5});
  optimizer.add("b", bias, make("full", bias), false, false);
  optimizer.collect("b", Gradient::dense(zeros({1, 5})));
  optimizer.step();
  EXPECT_EQ(bias, before);
}

// The norm is that of all factors' gradients as one vector, which is not that of the gradients.
TEST(Clipping, IsByTheGlobalNormOfTheFactorGradients) {
  const Shape shapes[] = {{7, 5}, {4, 9}};
  for (const char* optimizer : {"sgd", "sgd:momentum=0.5,moments=weight"}) {
    const auto run = [&](double clip, double& norm_of_factors) {
      std::vector<Matrix> w{draw(shapes[0], 1), draw(shapes[1], 2)};
      Optimizer all({.spec = rule(optimizer), .lr = 0.1, .clip = clip});
      for (std::size_t k = 0; k < 2; ++k) {
        const std::string name = "w" + std::to_string(k);
        auto projector = make("lora:rank=2,alpha=3,init=symmetric", w[k]);
        const Gradient g = Gradient::dense(draw(shapes[k], 3 + k));
        for (const Matrix& factor : projector->project(g, w[k])) {
          norm_of_factors += squared_norm(factor);
        }
        all.add(name, w[k], std::move(projector));
        all.collect(name, g);
      }
      norm_of_factors = std::sqrt(norm_of_factors);
      all.step();
      return std::vector{field(all.projector("w0"), "u"), field(all.projector("w1"), "v")};
    };
    double norm_of_factors = 0, unused = 0, untouched = 0;
    const auto start =
        std::vector{field(*make("lora:rank=2,alpha=3,init=symmetric", draw(shapes[0], 1)), "u"),
                    field(*make("lora:rank=2,alpha=3,init=symmetric", draw(shapes[1], 2)), "v")};
    const auto free = run(std::numeric_limits<double>::infinity(), norm_of_factors);
    const auto wide = run(1.01 * norm_of_factors, untouched);
    const auto tight = run(0.25 * norm_of_factors, unused);
    for (std::size_t k = 0; k < 2; ++k) {
      EXPECT_EQ(wide[k], free[k]) << optimizer;
      EXPECT_TRUE(near(difference(tight[k], start[k]), scaled(difference(free[k], start[k]), 0.25)))
          << optimizer;
    }
  }
}

TEST(Accumulation, OfTwoHalvesIsOneWhole) {
  for (const char* projector : {"full", "lora:rank=2,alpha=3,init=symmetric", "additive:rank=2",
                                "random:rank=2", "random:rank=2,refresh_every=2"}) {
    for (const char* optimizer : {"sgd:momentum=0.5", "adam", "adam:moments=none"}) {
      Trained whole(projector, optimizer, 0.1), halves(projector, optimizer, 0.1);
      const Matrix start = whole.w;
      for (std::size_t t = 0; t < 4; ++t) {
        const Matrix first = draw(kShape, 2 * t), second = draw(kShape, 2 * t + 1);
        whole.step(scaled(plus(first, 1, second), 0.5));
        halves.optimizer.collect("w", Gradient::dense(first), 0.5);
        halves.optimizer.collect("w", Gradient::dense(second), 0.5);
        halves.optimizer.step();
      }
      EXPECT_GT(norm(difference(whole.w, start)), 0.1);
      // Adam divides by gradients, of which the smallest here is some 1e-3.
      EXPECT_TRUE(near(halves.w, whole.w, 1e3 * kTolerance)) << projector << " " << optimizer;
    }
  }
}

enum class Moved { left, right };

Change change(Moved side, const Matrix& basis, double contraction) {
  return side == Moved::left ? Change{basis, {}, contraction} : Change{{}, basis, contraction};
}

struct TransportCase {
  Transport how;
  Moved side;
  double contraction;
  Matrix basis, first, second;  // the moments after it
  std::size_t step;
};

// Moments m and v of one factor with two coordinates: along a row (right), or along a column
// (left).
TEST(Transport, MovesMomentsAsComputedByHand) {
  using enum Moved;
  const Matrix c = matrix({{0, 0.5}, {1, 0}});
  const std::vector<TransportCase> cases{
      {Transport::keep, right, 1, c, matrix({{1, 2}}), matrix({{2, 5}}), 4},
      {Transport::reset, right, 1, c, matrix({{0, 0}}), matrix({{0, 0}}), 0},
      {Transport::project, right, 0.5, c, matrix({{2, 0.5}}), matrix({{2, 5}}), 4},
      {Transport::project, left, 0.5, c, matrix({{1}, {1}}), matrix({{2}, {5}}), 4},
      // v − m² = (1, 1) → (1, ¼) by the squares of c; with m² again (4, ¼)
      {Transport::rotate, right, 1, c, matrix({{2, 0.5}}), matrix({{5, 0.5}}), 4},
      {Transport::rotate, left, 1, c, matrix({{1}, {1}}), matrix({{1.25}, {2}}), 4},
      {Transport::rotate, right, 0.5, c, matrix({{1, 0.25}}), matrix({{1.25, 0.125}}), 4}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const TransportCase& t = cases[i];
    Moments moments{4, matrix({{1, 2}}), matrix({{2, 5}}), {}, {}};
    if (t.side == left) moments = {4, matrix({{1}, {2}}), matrix({{2}, {5}}), {}, {}};
    transport_moments(t.how, change(t.side, t.basis, t.contraction), moments);
    EXPECT_EQ(moments.first, t.first) << "case " << i;
    EXPECT_EQ(moments.second, t.second) << "case " << i;
    EXPECT_EQ(moments.step, t.step) << "case " << i;
  }
}

TEST(Transport, KeepsTheSecondMomentFromBecomingNegative) {
  Moments moments{
      4, matrix({{1, 1}}), matrix({{0, 0}}), {}, {}};  // v − m² = (−1, −1) → (−½, 0), m → 0
  transport_moments(Transport::rotate, change(Moved::right, matrix({{0.5, 0}, {-0.5, 0}}), 1),
                    moments);
  EXPECT_EQ(moments.first, matrix({{0, 0}}));
  EXPECT_EQ(moments.second, matrix({{0.5, 0}}));
}

TEST(Transport, IsAppliedByTheOptimizerWhenTheFramesMove) {
  // random:refresh_every=2 redraws before its third step; b_old b_newᵀ turns the first moment.
  Trained one("random:rank=2,sides=right,refresh_every=2",
              "sgd:momentum=0.5,moments=factors,transport=project", 0.1);
  const Matrix g = draw(kShape, 1);
  one.step(g);
  one.step(g);
  const Matrix old = Frames(one.projector(), "right", 2, 1).b;
  const Matrix averaged = scaled(matmul_nt(g, old), 1.5);  // b ← μ b + g, twice
  const Matrix before = one.w;
  one.step(g);
  const Matrix now = Frames(one.projector(), "right", 2, 1).b;
  EXPECT_GT(norm(difference(now, old)), 0.1);
  const Matrix carried = matmul(averaged, matmul_nt(old, now));
  EXPECT_TRUE(near(one.w, plus(before, -0.1, matmul(plus(matmul_nt(g, now), 0.5, carried), now))));
}

}  // namespace
}  // namespace gradview
