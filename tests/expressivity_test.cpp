// What the fits of `expressivity` find, against closed forms.
#include <cmath>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/experiments/expressivity/fitting.hpp"
#include "gradview/experiments/expressivity/minimise.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

Matrix draw(Shape shape, const char* name) {
  return normal(shape, 1, Stream(7, Purpose::test, name));
}

Matrix second_moment(std::size_t n, std::size_t tokens) {  // singular where tokens < n
  const Matrix x = draw({tokens, n}, "x");
  Matrix sigma = matmul_tn(x, x);
  scale(sigma, 1.0 / static_cast<double>(tokens));
  return sigma;
}

TEST(Minimise, FindsTheValleyOfRosenbrock) {
  const auto function = [](const Vector& x, Vector& gradient) {
    const double a = 1 - x[0];
    const double b = x[1] - x[0] * x[0];
    gradient = {-2 * a - 400 * x[0] * b, 200 * b};
    return a * a + 100 * b * b;
  };
  const Minimum found = minimise(function, {-1.2, 1}, {.iterations = 200, .floor = 1e-24});
  EXPECT_NEAR(found.x[0], 1, 1e-9);
  EXPECT_NEAR(found.x[1], 1, 1e-9);
}

TEST(Expressivity, AdditiveCapturesItsClosedForm) {
  for (const bool weighted : {false, true}) {
    for (const std::size_t tokens : {9, 60}) {  // Σ of 11 inputs: singular, regular
      const Goal goal =
          make_goal(draw({14, 11}, "d"), weighted ? second_moment(11, tokens) : Matrix());
      for (const std::size_t rank : {1, 3, 5}) {
        const Spec spec{"additive", {{"rank", std::to_string(rank)}}};
        EXPECT_NEAR(fit(spec, goal).captured, additive_captures(goal, rank), 1e-10)
            << weighted << " rank " << rank;
      }
    }
  }
}

TEST(Expressivity, AdditiveCapturesOnAverageWhatTheDimensionsSay) {
  double sum = 0, squares = 0;
  constexpr int kDraws = 400;
  for (int i = 0; i < kDraws; ++i) {
    const Matrix u = haar_rows(1, 12, Stream(i, Purpose::test, "u"));
    const Matrix v = haar_rows(1, 9, Stream(i, Purpose::test, "v"));
    const double captured = additive_captures(make_goal(matmul_tn(u, v)), 2);
    sum += captured;
    squares += captured * captured;
  }
  const double mean = sum / kDraws;
  const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
  EXPECT_NEAR(mean, additive_captures_of_any({12, 9}, 2), 5 * error);
}

TEST(Expressivity, SearchFindsWhatSingularValuesSay) {
  for (const bool weighted : {false, true}) {
    const Goal goal = make_goal(draw({14, 11}, "d"), weighted ? second_moment(11, 60) : Matrix());
    const Spec spec = parse_spec("lora:rank=3,alpha=5");
    const Fit closed = fit(spec, goal);
    const Fit found = fit(spec, goal, {.iterations = 2000, .tolerance = 1e-10, .search = true});
    EXPECT_EQ(closed.way, "svd");
    EXPECT_EQ(found.way, "search");
    EXPECT_NEAR(found.captured, closed.captured, 1e-6);
    EXPECT_LE(found.captured, closed.captured + 1e-12);
  }
}

// Van Loan, Pitsianis: the nearest Kronecker product is the first singular pair of the rearranged
// matrix, whose rows are the blocks.
TEST(Expressivity, SearchFindsTheNearestKroneckerProduct) {
  const Matrix d = draw({12, 9}, "d");
  Matrix blocks = zeros({9, 12});  // of 4 x 3, for a left factor of 3 x 3
  for (std::size_t i = 0; i < 12; ++i) {
    for (std::size_t j = 0; j < 9; ++j) blocks(i / 4 * 3 + j / 3, i % 4 * 3 + j % 3) = d(i, j);
  }
  const double first = svd(blocks).singular[0];
  const Fit found =
      fit(parse_spec("lokr:rank=1,factor=3,decompose=none"), make_goal(d), {.tolerance = 1e-10});
  EXPECT_NEAR(found.captured, first * first / squared_norm(d), 1e-6);
}

TEST(Expressivity, SearchFindsAllOfWhatTheMethodItselfMade) {
  for (const char* text : {"loha:rank=2", "lokr:factor=3,decompose=none,rank=1", "vera:rank=20"}) {
    const Spec spec = parse_spec(text);
    const Matrix start = zeros({12, 9});
    const auto made = make_projector(spec, Site{.name = "w", .weight = start, .seed = 5});
    Factors theta;
    for (const Matrix& factor : made->factors()) {
      theta.push_back(normal(shape_of(factor), 1, Stream(theta.size(), Purpose::test, "theta")));
    }
    Matrix d = start;
    for (std::size_t i = 0; i < 12; ++i) {
      for (std::size_t j = 0; j < 9; ++j)
        d(i, j) = static_cast<Real>(made->entry(theta, start, i, j));
    }
    const Fit found =
        fit(spec, make_goal(d), {.seed = 5, .restarts = 8, .iterations = 3000, .tolerance = 1e-10});
    EXPECT_NEAR(found.captured, 1, 1e-6) << text;
  }
}

TEST(Expressivity, CountsWithoutARankAreReachedByCuttingInBlocks) {
  const auto lokr = sized_for(parse_spec("lokr:rank=1,decompose=none"), {12, 9}, 30);
  ASSERT_TRUE(lokr);
  EXPECT_EQ(lokr->numbers, 21U);  // 3 x 3 and 4 x 3; uncut 109
  EXPECT_EQ(*lokr->spec.find("factor"), "3");
}

TEST(Expressivity, RankIsTheLargestWithinTheBudget) {
  const Shape shape{14, 11};
  const auto lora = sized_for(parse_spec("lora"), shape, 79);
  ASSERT_TRUE(lora);
  EXPECT_EQ(lora->numbers, 75U);  // 3 (14 + 11)
  EXPECT_EQ(*lora->spec.find("rank"), "3");
  EXPECT_FALSE(sized_for(parse_spec("lora"), shape, 24));
  EXPECT_EQ(sized_for(parse_spec("lora"), shape, 100000)->numbers, 11U * 25U);  // min(m, n)
  EXPECT_EQ(sized_for(parse_spec("lora:rank=2"), shape, 79)->numbers, 50U);
}

TEST(Expressivity, RefusesWhatHasNoFixedSetOfChanges) {
  const Goal goal = make_goal(draw({5, 4}, "d"));
  EXPECT_THROW(fit(parse_spec("random"), goal), std::invalid_argument);
  EXPECT_THROW(fit(parse_spec("bitfit"), goal), std::invalid_argument);
}

TEST(Gradient, KnowsTheSquaresOfItsInputs) {
  const Matrix x = draw({6, 4}, "x");
  Gradient g = Gradient::outer(share(draw({6, 3}, "delta")), share(x));
  g.add(Gradient::dense(draw({3, 4}, "g")), 2);
  g.add(Gradient::outer(share(draw({2, 3}, "delta")), share(rows(x, 0, 2))), 0.5);
  Matrix expected = matmul_tn(x, x);
  add_matmul_tn(expected, 1, rows(x, 0, 2), rows(x, 0, 2));
  EXPECT_LT(squared_norm(difference(g.input_squares(), expected)), 1e-24);
  EXPECT_EQ(g.tokens(), 8U);
}

}  // namespace
}  // namespace gradview
