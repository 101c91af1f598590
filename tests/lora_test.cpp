// lora's starts, learning-rate ratio and preconditioners, and lora_fa's correction, against their
// papers' equations.
#include "gradview/projections/lora.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// Entries are at most some 30 and each is a sum of fewer than 100 products: 100 · 30 · 2.2e-16.
constexpr double kTolerance = 1e-12;
constexpr Shape kShapes[] = {{9, 6}, {5, 8}, {7, 7}};

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "lora", which));
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
double distance(const Matrix& a, const Matrix& b) { return norm(difference(a, b)); }

// One weight under one projector, its factors away from zeros by option.
struct One {
  One(const std::string& projector, const std::string& rule, double lr, Shape shape,
      bool live = false)
      : w(draw(shape, 100)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = lr, .seed = 1}) {
    optimizer.add("w", w, make_projector(parse_spec(projector), Site{"w", w, 1}));
    if (live) (*this)["u"] = draw(shape_of((*this)["u"]), 101);
  }
  Projector& projector() { return optimizer.projector("w"); }
  Matrix& operator[](const std::string& name) {
    Matrix* found = nullptr;
    projector().fields([&](std::string_view each, Matrix& value, Role) {
      if (each == name) found = &value;
    });
    if (!found) throw std::invalid_argument("no field " + name);
    return *found;
  }
  void start(const Matrix& g) { projector().start(Gradient::dense(g), Site{"w", w, 1}); }
  void step(const Matrix& g) {
    optimizer.collect("w", Gradient::dense(g));
    optimizer.step();
  }
  Factors preconditioned(const Matrix& g) {
    Factors f = projector().project(Gradient::dense(g), w);
    projector().precondition(f, Site{"w", w, 1});
    return f;
  }
  Matrix tangent(const Matrix& g) {  // J P Jᵀ G
    Matrix out = zeros(shape_of(g));
    projector().lift(preconditioned(g), out);
    return out;
  }

  Matrix w;
  Optimizer optimizer;
};

// The orthogonal projections on the columns of u and on the rows of v.
Matrix on_columns(const Matrix& u) { return matmul(u, solve(matmul_tn(u, u), transpose(u))); }
Matrix on_rows(const Matrix& v) { return on_columns(transpose(v)); }

Matrix best_of_rank(const Matrix& g, std::size_t rank) {
  Svd s = svd(g);
  Matrix out = zeros(shape_of(g));
  for (std::size_t k = 0; k < std::min(rank, s.singular.size()); ++k) {
    add_matmul(out, s.singular[k], columns(s.u, k, 1), rows(s.vt, k, 1));
  }
  return out;
}

TEST(LoraGa, FirstOperatorIsZetaTimesTheBestApproximationOfRankTwoR) {
  constexpr double kAlpha = 5, kGamma = 3;
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    for (const std::size_t r : {std::size_t{2}, std::size_t{4}}) {  // 2r below and above min(m, n)
      for (const std::string direction : {"ArB2r", "ArBr", "A2rBr", "random"}) {
        for (const std::string size : {"stable", "gd", "unit"}) {
          const std::string spec =
              "lora:scaling=rslora,init=lora_ga,alpha=5,rank=" + std::to_string(r) +
              ",direction=" + direction + ",scale=" + size + (size == "stable" ? ",gamma=3" : "");
          One one(spec, "sgd", 0.1, shape);
          one.start(g);
          const double s = kAlpha / std::sqrt(static_cast<double>(r));
          const double root = std::sqrt(static_cast<double>(shape.rows));
          const double zeta = size == "stable"
                                  ? kAlpha * kAlpha * root / kGamma / static_cast<double>(r)
                              : size == "gd" ? 1
                                             : s * s;
          EXPECT_LT(distance(one.tangent(g), scaled(best_of_rank(g, 2 * r), zeta)),
                    1e-10 * zeta * norm(g))
              << spec << " on " << to_string(shape);
          for (std::size_t k = 0; k < r; ++k) {  // no component is dead
            EXPECT_GT(norm(columns(one["u"], k, 1)) + norm(rows(one["v"], k, 1)), 0.1) << spec;
          }
        }
      }
    }
  }
}

TEST(LoraGa, VariantOfPeftIsAnotherStart) {
  const Shape shape{9, 6};
  const Matrix g = draw(shape, 1), small = scaled(g, 1e-6);
  for (const std::string variant : {"paper", "peft"}) {
    One one("lora:rank=2,alpha=3,init=lora_ga,variant=" + variant, "sgd", 0.1, shape);
    one.start(small);
    const double live = norm(one["u"]) / norm(one["v"]);
    if (variant == "paper") {
      EXPECT_NEAR(live, 1, 1e-9);
    } else {
      EXPECT_LT(live, 1e-5);  // u is as small as the gradient
    }
  }
}

TEST(LoraGa, StartsFromTheMeanOfThePrepass) {
  const Shape shape{9, 6};
  const Matrix g = draw(shape, 1), h = draw(shape, 2);
  const std::string spec = "lora:rank=2,alpha=3,init=lora_ga";
  One averaged(spec, "sgd", 0.1, shape), given(spec, "sgd", 0.1, shape);
  EXPECT_TRUE(averaged.optimizer.wants_prepass());
  averaged.optimizer.prepare("w", Gradient::dense(g), 0.5);
  averaged.optimizer.prepare("w", Gradient::dense(h), 0.5);
  averaged.optimizer.collect("w", Gradient::dense(draw(shape, 3)));
  given.start(plus(scaled(g, 0.5), 0.5, h));
  for (const char* name : {"u", "v", "u0", "v0"}) {
    EXPECT_LT(distance(averaged[name], given[name]), kTolerance) << name;
  }
}

// Four iterations leave (σ_q+1/σ_r)^9 of what is beyond the 4r columns; here there is nothing beyond.
TEST(LoraGa, RandomisedStartOfAFactoredGradientIsTheExactOne) {
  for (const Shape shape : {Shape{30, 20}, Shape{20, 30}}) {
    const auto [m, n] = shape;
    const Gradient g = Gradient::outer(share(draw({7, m}, 1)), share(draw({7, n}, 2)));
    One exact("lora:rank=2,alpha=3,init=lora_ga", "sgd", 0.1, shape);
    One drawn("lora:rank=2,alpha=3,init=lora_ga,svd_niter=4", "sgd", 0.1, shape);
    for (One* one : {&exact, &drawn}) one->projector().start(g, Site{"w", one->w, 1});
    EXPECT_LT(distance(exact["u"], drawn["u"]), 1e-10) << to_string(shape);
    EXPECT_LT(distance(exact["v"], drawn["v"]), 1e-10) << to_string(shape);
  }
}

TEST(LoraGa, NormClipKeepsTheProductBelowTheWeight) {
  const Shape shape{9, 6};
  const Matrix g = draw(shape, 1);
  const auto largest = [](const Matrix& a) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a.data()[i]));
    return most;
  };
  for (const std::string clip : {"false", "true"}) {
    One one("lora:rank=2,alpha=9,init=lora_ga,gamma=0.1,norm_clip=" + clip, "sgd", 0.1, shape);
    one.start(g);
    const double ratio = 4.5 * largest(matmul(one["u"], one["v"])) / largest(one.w);
    if (clip == "true") {
      EXPECT_NEAR(ratio, 1, 1e-12);
    } else {
      EXPECT_GT(ratio, 2);
    }
  }
}

TEST(LoraGa, GradientThatIsNotFiniteLeavesTheStartOfZero) {
  const Shape shape{9, 6};
  Matrix g = draw(shape, 1);
  g(3, 2) = std::numeric_limits<Real>::quiet_NaN();
  One one("lora:rank=2,alpha=3,init=lora_ga", "sgd", 0.1, shape);
  EXPECT_NO_THROW(one.step(g));
  EXPECT_EQ(norm(one["u0"]), 0);
}

TEST(LoraInit, PissaTakesThePrincipalPartOfTheWeight) {
  for (const Shape shape : kShapes) {
    One one("lora:rank=3,alpha=5,init=pissa", "sgd", 0.1, shape);
    const Matrix part = scaled(matmul(one["u"], one["v"]), 5.0 / 3);
    EXPECT_LT(distance(part, best_of_rank(one.w, 3)), kTolerance);
    EXPECT_LT(distance(matmul_tn(one["u"], one["u"]), matmul_nt(one["v"], one["v"])), kTolerance);
  }
}

TEST(LoraInit, OloraTakesTheFirstPartOfTheQrOfTheWeight) {
  for (const Shape shape : kShapes) {
    One one("lora:rank=3,alpha=5,init=olora", "sgd", 0.1, shape);
    EXPECT_LT(distance(matmul_tn(one["u"], one["u"]), identity(3)), kTolerance);
    // R is upper triangular, and what is left of W has no first three columns.
    for (std::size_t k = 1; k < 3; ++k) EXPECT_LT(std::abs(one["v"](k, k - 1)), kTolerance);
    const Matrix rest = difference(one.w, matmul(one["u"], one["v"]));
    EXPECT_LT(norm(columns(rest, 0, 3)), kTolerance);
  }
}

TEST(LoraInit, OrthogonalIsLiveAndHasNoProduct) {
  One one("lora:rank=4,alpha=5,init=orthogonal", "sgd", 0.1, {9, 6});
  EXPECT_GT(norm(one["u"]), 0.1);
  EXPECT_GT(norm(one["v"]), 0.1);
  EXPECT_LT(norm(matmul(one["u"], one["v"])), kTolerance);
  EXPECT_THROW(One("lora:rank=3,init=orthogonal", "sgd", 0.1, {9, 6}), std::invalid_argument);
  EXPECT_THROW(One("lora:rank=8,init=orthogonal", "sgd", 0.1, {9, 5}), std::invalid_argument);
}

TEST(LoraInit, ExportedProductIsTheMoveOfTheWeight) {
  const Shape shape{9, 6};
  for (const std::string init :
       {"zero", "gaussian", "symmetric", "orthogonal", "pissa", "olora", "lora_ga"}) {
    One one("lora:rank=2,alpha=3,init=" + init, "adam", 0.05, shape);
    const Matrix start = one.w;
    for (std::size_t k = 0; k < 5; ++k) one.step(draw(shape, k));
    const LowRank product = *one.projector().product();
    Matrix moved = difference(one.w, start);
    EXPECT_GT(norm(moved), 0.1) << init;
    add_matmul(moved, -product.s, product.u, product.v);
    EXPECT_LT(norm(moved), kTolerance) << init;
  }
}

// Factors that are set by hand start with a product: it is kept where there is room for it, and the
// export is refused where there is none.
TEST(LoraInit, ExportOfFactorsSetFromOutsideIsRightOrRefused) {
  const Shape shape{9, 6};
  for (const std::string spec : {"lora:rank=2,alpha=3", "lora:rank=2,alpha=3,init=orthogonal",
                                 "lora_fa:rank=2,alpha=3", "lora:rank=2,alpha=3,init=symmetric"}) {
    One one(spec, "sgd", 0.1, shape, true);
    const Matrix start = one.w;
    one.step(draw(shape, 1));
    const auto product = one.projector().product();
    EXPECT_EQ(product.has_value(), spec.ends_with("symmetric")) << spec;
    if (!product) continue;
    Matrix moved = difference(one.w, start);
    add_matmul(moved, -product->s, product->u, product->v);
    EXPECT_LT(norm(moved), kTolerance) << spec;
  }
}

TEST(LoraPlus, RatioIsOfTheLeftFactorUnderEveryStart) {
  const Shape shape{9, 6};
  const Matrix g = draw(shape, 1);
  for (const std::string init : {"zero", "pissa"}) {
    One plain("lora:rank=2,alpha=3,init=" + init, "sgd", 0.1, shape);
    One fast("lora:rank=2,alpha=3,lr_ratio=8,init=" + init, "sgd", 0.1, shape);
    const Matrix u = plain["u"];
    plain.step(g);
    fast.step(g);
    EXPECT_LT(distance(difference(fast["u"], u), scaled(difference(plain["u"], u), 8)), kTolerance);
    EXPECT_LT(distance(fast["v"], plain["v"]), kTolerance);
  }
}

TEST(Riemannian, OperatorIsTheSumOfBothProjections) {
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    One one("lora:rank=2,alpha=3,precondition=riemannian,reg=0", "sgd", 0.1, shape, true);
    const Matrix sum = plus(matmul(g, on_rows(one["v"])), 1, matmul(on_columns(one["u"]), g));
    EXPECT_LT(distance(one.tangent(g), scaled(sum, 1.5 * 1.5)), kTolerance);
  }
}

TEST(Riemannian, StepOfSgdIsTheSameInAnyGauge) {
  const Matrix m = matrix({{2, 1}, {0.5, -0.5}}), inverse = solve(m, identity(2));
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    const auto change = [&](const std::string& spec) {
      One one(spec, "sgd", 0.1, shape, true), other(spec, "sgd", 0.1, shape, true);
      other["u"] = matmul(other["u"], m);
      other["v"] = matmul(inverse, other["v"]);
      one.step(g);
      other.step(g);
      return distance(one.w, other.w);
    };
    EXPECT_LT(change("lora:rank=2,alpha=3,precondition=riemannian,reg=0"), kTolerance);
    EXPECT_GT(change("lora:rank=2,alpha=3,precondition=riemannian"), 1e-6);  // reg = 0.01
    EXPECT_GT(change("lora:rank=2,alpha=3"), 1e-2);
  }
}

TEST(Riemannian, ZeroFactorIsNotDividedBy) {
  const Matrix g = draw({9, 6}, 1);
  for (const std::string spec : {"riemannian,reg=0", "lora_pro,delta=0"}) {
    One one("lora:rank=2,alpha=3,precondition=" + spec, "sgd", 0.1, {9, 6});
    const Factors f = one.preconditioned(g);
    EXPECT_TRUE(all_finite(f[0])) << spec;
    EXPECT_EQ(norm(f[1]), 0) << spec;
  }
}

TEST(LoraPro, StepIsTheProjectionOnTheTangentSpace) {
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    One one("lora:rank=2,alpha=3,precondition=lora_pro,delta=0", "sgd", 0.1, shape, true);
    const Matrix left = on_columns(one["u"]), right = on_rows(one["v"]);
    const Matrix left_of_g = matmul(left, g);
    Matrix expected = plus(left_of_g, 1, matmul(g, right));
    axpy(expected, -1, matmul(left_of_g, right));
    const Matrix got = one.tangent(g);
    EXPECT_LT(distance(got, expected), kTolerance) << to_string(shape);
    // ‖G − Gt‖ = ‖(I − Π_u) G (I − Π_v)‖
    const Matrix rest = difference(g, left_of_g);
    EXPECT_NEAR(distance(g, got), norm(difference(rest, matmul(rest, right))), kTolerance);
  }
}

// At the nearest pair of all with that product, moving X changes the distance to second order:
// (dV' − dV) vᵀ = uᵀ (dU' − dU).
TEST(LoraPro, PairIsTheNearestToTheGradientsOfTheFactors) {
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    One one("lora:rank=2,alpha=3,precondition=lora_pro,delta=0", "sgd", 0.1, shape, true);
    const Factors plain = one.projector().project(Gradient::dense(g), one.w);
    const Factors moved = one.preconditioned(g);
    const Matrix by_v = matmul_nt(difference(moved[1], plain[1]), one["v"]);
    const Matrix by_u = matmul_tn(one["u"], difference(moved[0], plain[0]));
    EXPECT_GT(norm(by_u), 0.1);
    EXPECT_LT(distance(by_v, by_u), kTolerance) << to_string(shape);
  }
}

// As the authors' code has it: Adam's moments are of the projected gradient, and the direction is
// projected once more.
TEST(LoraPro, LiftedMomentsAreThoseOfTheAuthors) {
  const Shape shape{9, 6};
  const std::string spec = "lora:rank=2,alpha=3,precondition=lora_pro,init=symmetric";
  constexpr double kRate = 0.01;
  One one(spec, "adam:moments=lifted", kRate, shape), by_hand(spec, "sgd", kRate, shape);
  Matrix first = zeros(shape), second = zeros(shape);
  for (std::size_t step = 1; step <= 4; ++step) {
    const Matrix g = draw(shape, step), seen = by_hand.tangent(g);
    Matrix direction = zeros(shape);
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double x = seen.data()[i];
      first.data()[i] = 0.9 * first.data()[i] + 0.1 * x;
      second.data()[i] = 0.999 * second.data()[i] + 0.001 * x * x;
      const double unit1 = 1 - std::pow(0.9, step), unit2 = 1 - std::pow(0.999, step);
      direction.data()[i] = first.data()[i] / unit1 / (std::sqrt(second.data()[i] / unit2) + 1e-8);
    }
    one.step(g);
    by_hand.step(direction);  // P Jᵀ direction, by plain descent
    // Adam divides by roots of squares as small as the entries that the projection leaves: 1e-8.
    EXPECT_LT(distance(one.w, by_hand.w), 1e-10) << step;
  }
}

// After one step from u = 0 the inverse is 1/‖u‖² ~ 1/lr²: the second-order share of the next step
// does not shrink with lr, unless it is damped.
TEST(LoraPro, DampingRestoresTheFirstOrderAfterAZeroStart) {
  const Shape shape{9, 6};
  const auto share = [&](const std::string& damping, double lr) {
    One one("lora:rank=2,alpha=3,precondition=lora_pro,delta=0" + damping, "sgd", lr, shape);
    one.step(draw(shape, 1));
    one.optimizer.observe();
    one.step(draw(shape, 2));
    return one.optimizer.observation().second_order();
  };
  EXPECT_GT(share("", 1e-4), 0.5 * share("", 1e-3));
  EXPECT_GT(share("", 1e-4), 0.1);
  EXPECT_LT(share(",damping=0.1", 1e-4), 0.2 * share(",damping=0.1", 1e-3));
  EXPECT_LT(share(",damping=0.1", 1e-4), 0.01);
}

TEST(LoraFa, CorrectedStepIsTheGradientOnTheFrozenRows) {
  for (const Shape shape : kShapes) {
    const Matrix g = draw(shape, 1);
    One one("lora_fa:rank=2,alpha=3,correction=peft", "sgd", 0.1, shape);
    const Matrix start = one.w, right = on_rows(one["v"]);
    const double smallest = symmetric_eigen(matmul_nt(one["v"], one["v"])).values[0];
    one.step(g);
    EXPECT_LT(distance(one.w, plus(start, -0.1, matmul(g, right))),
              0.1 * norm(g) * 1e-8 / smallest + kTolerance);  // of the 1e-8 in the inverse
  }
}

TEST(LoraOptions, OfAnotherChoiceAreRefusedInOneLine) {
  const auto message = [](const std::string& spec) -> std::string {
    try {
      const Matrix w = zeros({4, 3});
      make_projector(parse_spec(spec), Site{"w", w, 1});
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message("lora:gamma=4"),
            "option 'gamma' of lora is given, but it belongs to init=lora_ga");
  EXPECT_EQ(message("lora:init=pissa,direction=ArBr"),
            "option 'direction' of lora is given, but it belongs to init=lora_ga");
  EXPECT_EQ(message("lora:init=olora,pissa_niter=4"),
            "option 'pissa_niter' of lora is given, but it belongs to init=pissa");
  EXPECT_EQ(message("lora:reg=0.1,precondition=lora_pro"),
            "option 'reg' of lora is given, but it belongs to precondition=riemannian");
  EXPECT_NE(message("lora:init=lora_ga,direction=ArB3r").find("did you mean 'ArB2r'?"),
            std::string::npos);
  EXPECT_EQ(message("lora:init=lora_ga,gamma=4,rank=1"), "");
}

}  // namespace
}  // namespace gradview
