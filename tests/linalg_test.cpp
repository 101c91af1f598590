// Linear algebra, factored gradients and random numbers against their definitions, in either
// precision.
#include "gradview/core/linalg.hpp"

#include <Random123/philox.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/core/text.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<Real>::epsilon();
const Real kNaN = std::numeric_limits<Real>::quiet_NaN();
const Real kInfinity = std::numeric_limits<Real>::infinity();

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "linalg", which));
}

Real entry(const Matrix& a, bool transposed, std::size_t i, std::size_t j) {
  return transposed ? a(j, i) : a(i, j);
}

// c + s op(a) op(b), and the bound on what a sum of k products rounds to: (k + 3) ε Σ |terms|.
testing::AssertionResult is_product(const Matrix& got, const Matrix& c, double s, const Matrix& a,
                                    bool a_transposed, const Matrix& b, bool b_transposed) {
  const std::size_t inner = a.shape()[a_transposed ? 0 : 1];
  for (std::size_t i = 0; i < got.shape()[0]; ++i) {
    for (std::size_t j = 0; j < got.shape()[1]; ++j) {
      long double sum = c(i, j), size = std::abs(c(i, j));
      for (std::size_t k = 0; k < inner; ++k) {
        const long double term = static_cast<long double>(static_cast<Real>(s)) *
                                 entry(a, a_transposed, i, k) * entry(b, b_transposed, k, j);
        sum += term;
        size += std::abs(term);
      }
      const double allowed = static_cast<double>(size) * (static_cast<double>(inner) + 3) * kEps;
      const auto off = static_cast<double>(std::abs(got(i, j) - sum));
      if (off <= allowed) continue;
      return testing::AssertionFailure() << "(" << i << ", " << j << ") is off by " << off
                                         << ", allowed " << allowed << ", inner size " << inner;
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult near(const Matrix& got, const Matrix& want, double tolerance) {
  if (shape_of(got) != shape_of(want)) {
    return testing::AssertionFailure()
           << to_string(shape_of(got)) << ", " << to_string(shape_of(want));
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::abs(got.data()[i] - want.data()[i]) <= tolerance) continue;
    return testing::AssertionFailure() << "entry " << i << " is " << got.data()[i] << ", expected "
                                       << want.data()[i] << " ± " << tolerance;
  }
  return testing::AssertionSuccess();
}

struct Product {
  std::size_t m, n, k;
};

TEST(Linalg, ProductsAreSumsOfProducts) {
  for (const auto& [m, n, k] : std::vector<Product>{{1, 1, 1},
                                                    {3, 5, 7},
                                                    {1, 9, 4},
                                                    {17, 1, 3},
                                                    {33, 31, 29},
                                                    {4, 6, 0},
                                                    {0, 3, 4},
                                                    {3, 0, 4}}) {
    const Matrix a = draw({m, k}, 1), at = transpose(a), b = draw({k, n}, 2), bt = transpose(b);
    const Matrix none = zeros({m, n}), start = draw({m, n}, 3);
    EXPECT_TRUE(is_product(matmul(a, b), none, 1, a, false, b, false));
    EXPECT_TRUE(is_product(matmul_nt(a, bt), none, 1, a, false, bt, true));
    EXPECT_TRUE(is_product(matmul_tn(at, b), none, 1, at, true, b, false));
    Matrix c = start;
    add_matmul(c, -1.5, a, b);
    EXPECT_TRUE(is_product(c, start, -1.5, a, false, b, false));
    c = start;
    add_matmul_tn(c, -1.5, at, b);
    EXPECT_TRUE(is_product(c, start, -1.5, at, true, b, false));
  }
}

TEST(Linalg, EveryNumberOfThreadsGivesTheSameBits) {
  const Matrix a = draw({300, 200}, 1), b = draw({200, 400}, 2), start = draw({300, 400}, 3);
  const Matrix at = transpose(a), bt = transpose(b);  // 300 · 400 · 200 is above the threshold
  std::vector<std::vector<Matrix>> results;
  for (const std::size_t threads : {1, 2, 3}) {
    set_threads(threads);
    Matrix c = start, d = start;
    add_matmul(c, 0.5, a, b);
    add_matmul_tn(d, 0.5, at, b);
    results.push_back({matmul(a, b), matmul_nt(a, bt), matmul_tn(at, b), c, d});
  }
  set_threads(1);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  EXPECT_TRUE(is_product(results[0][0], zeros({300, 400}), 1, a, false, b, false));
  EXPECT_TRUE(is_product(results[0][4], start, 0.5, at, true, b, false));
}

TEST(Linalg, ShapesThatDisagreeAreRefused) {
  const Matrix a = zeros({3, 4}), b = zeros({5, 6});
  Matrix c = zeros({3, 6});
  const std::vector<std::function<void()>> calls{[&] { matmul(a, b); },
                                                 [&] { matmul_nt(a, b); },
                                                 [&] { matmul_tn(a, b); },
                                                 [&] { add_matmul(c, 1, a, b); },
                                                 [&] {
                                                   add_matmul(c, 1, a, zeros({4, 5}));
                                                 },
                                                 [&] {
                                                   add_matmul_tn(c, 1, a, zeros({3, 6}));
                                                 },
                                                 [&] { axpy(c, 1, a); },
                                                 [&] { difference(a, b); },
                                                 [&] { dot(a, b); },
                                                 [&] { dot(a, transpose(a)); },
                                                 [&] {
                                                   add_unfolded(c, zeros({3, 2}), zeros({3, 6}));
                                                 },
                                                 [&] {
                                                   add_unfolded(c, zeros({2, 2}), zeros({2, 6}));
                                                 },
                                                 [&] {
                                                   matrix({{1, 2}, {3}});
                                                 }};
  for (std::size_t i = 0; i < calls.size(); ++i) {
    EXPECT_THROW(calls[i](), std::invalid_argument) << "call " << i;
  }
}

TEST(Linalg, ParallelBlocksCoverAllAndRethrow) {
  for (const std::size_t threads : {1, 3}) {
    set_threads(threads);
    std::vector<std::atomic<int>> seen(1000);
    parallel_blocks(1000, 7, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++seen[i];
      parallel_blocks(2, 1, [](std::size_t, std::size_t) {});  // from inside: works alone
    });
    EXPECT_TRUE(
        std::all_of(seen.begin(), seen.end(), [](const auto& count) { return count == 1; }));
    const auto fail = [](std::size_t begin, std::size_t) {
      if (begin >= 500) throw std::runtime_error("half way");
    };
    EXPECT_THROW(parallel_blocks(1000, 7, fail), std::runtime_error);
  }
  set_threads(1);
}

TEST(Linalg, DotAndNormSumInDoubleAndKeepWhatIsNotFinite) {
  const Matrix a = draw({13, 11}, 1), b = draw({13, 11}, 2);
  long double sum = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const long double term = static_cast<long double>(a.data()[i]) * b.data()[i];
    sum += term;
    size += std::abs(term);
  }
  const double allowed = 143 * std::numeric_limits<double>::epsilon() * static_cast<double>(size);
  EXPECT_NEAR(dot(a, b), static_cast<double>(sum), allowed);
  EXPECT_EQ(squared_norm(a), dot(a, a));
  for (const std::size_t where : {0, 9, 142}) {  // in the lanes and in the rest
    Matrix c = a;
    c.data()[where] = kNaN;
    EXPECT_TRUE(std::isnan(dot(c, b)));
    EXPECT_TRUE(std::isnan(squared_norm(c)));
    EXPECT_FALSE(all_finite(c));
    c.data()[where] = kInfinity;
    EXPECT_TRUE(std::isinf(squared_norm(c)));
    EXPECT_FALSE(all_finite(c));
  }
  EXPECT_TRUE(all_finite(a));
  EXPECT_EQ(dot(zeros({0, 3}), zeros({0, 3})), 0);
}

Matrix blocks(std::size_t r, std::size_t d) {  // J_d = [I_r I_r …], cut at d
  Matrix j = zeros({r, d});
  for (std::size_t i = 0; i < d; ++i) j(i % r, i) = 1;
  return j;
}

TEST(Linalg, FoldsAreProductsWithBlocksOfIdentities) {
  for (const Shape shape : {Shape{6, 9}, Shape{7, 5}, Shape{1, 4}}) {
    const Matrix a = draw(shape, 1);
    for (const std::size_t r : {1, 2, 3, 8}) {
      const Matrix jn = blocks(r, shape.cols), jm = blocks(r, shape.rows);
      const double tolerance = 9 * kEps * 9 * 4;  // sums of at most 9 entries of size at most 4
      EXPECT_TRUE(near(fold_columns(a, r), matmul_nt(a, jn), tolerance)) << r;
      EXPECT_TRUE(near(fold_rows(a, r), matmul(jm, a), tolerance)) << r;
      const Matrix u = draw({shape.rows, r}, 2), v = draw({r, shape.cols}, 3);
      Matrix w = a, expected = a;
      add_unfolded(w, u, v);
      add_matmul(expected, 1, u, jn);
      add_matmul_tn(expected, 1, jm, v);
      EXPECT_TRUE(near(w, expected, tolerance)) << r;
    }
  }
}

TEST(Linalg, SvdIsOrthonormalDescendingAndGivesTheMatrixBack) {
  for (const Shape shape : {Shape{7, 4}, Shape{4, 7}, Shape{5, 5}, Shape{1, 6}, Shape{6, 1}}) {
    for (const bool deficient : {false, true}) {
      Matrix a = draw(shape, 1);
      if (deficient) a = matmul(draw({shape.rows, 1}, 2), draw({1, shape.cols}, 3));
      const Svd s = svd(a);
      const std::size_t k = std::min(shape.rows, shape.cols);
      ASSERT_EQ(s.singular.size(), k);
      EXPECT_TRUE(std::is_sorted(s.singular.rbegin(), s.singular.rend()));
      EXPECT_GE(s.singular.back(), 0);
      const double tolerance = 10 * 7 * kEps;  // c n ε for at most 7 rows and columns
      EXPECT_TRUE(near(matmul_tn(s.u, s.u), identity(k), tolerance));
      EXPECT_TRUE(near(matmul_nt(s.vt, s.vt), identity(k), tolerance));
      Matrix us = s.u;
      for (std::size_t i = 0; i < shape.rows; ++i) {
        for (std::size_t j = 0; j < k; ++j) us(i, j) *= static_cast<Real>(s.singular[j]);
      }
      EXPECT_TRUE(near(matmul(us, s.vt), a, tolerance * s.singular[0])) << to_string(shape);
      for (std::size_t j = 0; j < k; ++j) {
        Real largest = 0;
        for (std::size_t i = 0; i < shape.rows; ++i) {
          if (std::abs(s.u(i, j)) > std::abs(largest)) largest = s.u(i, j);
        }
        EXPECT_GT(largest, 0);
      }
    }
  }
}

TEST(Linalg, OrthonormalRowsAreThoseOfGramAndSchmidt) {
  for (const Shape shape : {Shape{3, 7}, Shape{5, 5}, Shape{1, 4}}) {
    const auto [r, n] = shape;
    const Matrix a = draw(shape, 1), q = orthonormal_rows(a);
    const double tolerance = 10 * 7 * kEps * std::sqrt(squared_norm(a));
    EXPECT_TRUE(near(matmul_nt(q, q), identity(r), tolerance));
    const Matrix lower = matmul_nt(a, q);  // a = Rᵀ Qᵀ
    EXPECT_TRUE(near(matmul(lower, q), a, tolerance));
    for (std::size_t i = 0; i < r; ++i) {
      EXPECT_GT(lower(i, i), 0);
      for (std::size_t j = i + 1; j < r; ++j) EXPECT_NEAR(lower(i, j), 0, tolerance);
    }
  }
  EXPECT_THROW(orthonormal_rows(zeros({4, 3})), std::invalid_argument);
}

TEST(Linalg, LapackRefusesWhatIsNotFinite) {
  for (const Real bad : {kNaN, kInfinity}) {
    Matrix a = draw({3, 4}, 1);
    a(1, 2) = bad;
    EXPECT_THROW(svd(a), std::domain_error);
    EXPECT_THROW(orthonormal_rows(a), std::domain_error);
  }
}

// Gradients of 6 x 4, of every kind of sum; the third has so few tokens that its norm comes from
// Gram matrices.
Gradient tokens(std::size_t count, std::size_t which) {
  return Gradient::outer(share(draw({count, 6}, which)), share(draw({count, 4}, which + 1)));
}

std::vector<Gradient> gradients() {
  std::vector<Gradient> all{Gradient({6, 4}), Gradient::dense(draw({6, 4}, 1)), tokens(2, 2),
                            tokens(9, 4)};
  Gradient sum({6, 4});
  sum.add(tokens(2, 6), -0.5);
  all.push_back(sum);  // one factored term with a scale
  sum.add(Gradient::dense(draw({6, 4}, 8)), 2);
  sum.add(tokens(5, 9));
  all.push_back(sum);
  sum.add(all.back(), 0.25);  // scales multiply
  all.push_back(sum);
  return all;
}

TEST(Gradient, ProductsAreThoseOfTheFormedMatrix) {
  const Matrix u = draw({6, 3}, 20), v = draw({3, 4}, 21), w = draw({6, 4}, 22);
  constexpr double kTolerance = 4000 * kEps;  // sums of at most 9 · 7 products of three numbers ≤ 4
  for (const Gradient& g : gradients()) {
    const Matrix formed = g.materialize();
    EXPECT_EQ(shape_of(formed), g.shape());
    EXPECT_TRUE(near(matmul_nt(g, v), matmul_nt(formed, v), kTolerance));
    EXPECT_TRUE(near(matmul_tn(u, g), matmul_tn(u, formed), kTolerance));
    for (const std::size_t r : {1, 2, 4}) {
      EXPECT_TRUE(near(fold_columns(g, r), fold_columns(formed, r), kTolerance));
      EXPECT_TRUE(near(fold_rows(g, r), fold_rows(formed, r), kTolerance));
    }
    EXPECT_NEAR(dot(g, w), dot(formed, w), kTolerance);
    EXPECT_NEAR(squared_norm(g), squared_norm(formed), 64 * kEps * squared_norm(formed));
    EXPECT_TRUE(g.finite());
  }
}

TEST(Gradient, FormedMatrixIsTheScaledSumOfItsTerms) {
  const Matrix delta = draw({5, 6}, 1), x = draw({5, 4}, 2), d = draw({6, 4}, 3);
  Gradient g = Gradient::dense(d);
  g.add(Gradient::outer(share(delta), share(x)), -0.5);
  EXPECT_TRUE(is_product(g.materialize(), d, -0.5, delta, true, x, false));
}

TEST(Gradient, ReportsWhatIsNotFiniteAndRefusesOtherShapes) {
  Matrix x = draw({5, 4}, 2);
  x(4, 3) = kNaN;
  Gradient g = Gradient::dense(draw({6, 4}, 1));
  g.add(Gradient::outer(share(draw({5, 6}, 1)), share(x)));
  EXPECT_FALSE(g.finite());
  EXPECT_TRUE(std::isnan(squared_norm(g)));
  EXPECT_THROW(g.add(Gradient({4, 6})), std::invalid_argument);
  EXPECT_THROW(Gradient::outer(share(zeros({5, 6})), share(zeros({4, 4}))), std::invalid_argument);
  EXPECT_THROW(matmul_nt(g, zeros({3, 6})), std::invalid_argument);
  EXPECT_THROW(matmul_tn(zeros({4, 3}), g), std::invalid_argument);
  EXPECT_THROW(dot(g, zeros({4, 6})), std::invalid_argument);
}

// The known answers that Random123 ships with (kat_vectors, philox4x32 10).
TEST(Random, PhiloxGivesItsKnownAnswers) {
  using Counter = r123::Philox4x32::ctr_type;
  using Key = r123::Philox4x32::key_type;
  const r123::Philox4x32 philox;
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox(Counter{{0, 0, 0, 0}}, Key{{0, 0}}),
            (Counter{{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
  EXPECT_EQ(philox(Counter{{kOnes, kOnes, kOnes, kOnes}}, Key{{kOnes, kOnes}}),
            (Counter{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
  EXPECT_EQ(philox(Counter{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
                   Key{{0xa4093822, 0x299f31d0}}),
            (Counter{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}

TEST(Random, StreamIsPhiloxKeyedByItsFourKeys) {
  constexpr std::uint64_t kSeed = 0x0123456789abcdef;
  Stream rng(kSeed, Purpose::left_frame, "fc1.weight", 42);
  for (std::uint32_t block = 0; block < 3; ++block) {
    const auto words =
        r123::Philox4x32{}({{block, 42, static_cast<std::uint32_t>(fnv1a("fc1.weight")),
                             static_cast<std::uint32_t>(Purpose::left_frame)}},
                           {{0x89abcdef, 0x01234567}});
    for (const std::size_t half : {0, 2}) {
      const std::uint64_t word = words[half] | static_cast<std::uint64_t>(words[half + 1]) << 32;
      EXPECT_NEAR(rng.uniform(), static_cast<double>(word) * 0x1p-64, 0x1p-52);
    }
  }
}

// Pinned: runs of before a change of these would not be repeated by runs after it.
TEST(Random, FirstNumbersOfAStreamAreWhatTheyWere) {
  Stream rng(2023, Purpose::init, "w", 7);
  std::vector<std::size_t> first;
  for (int i = 0; i < 4; ++i) first.push_back(rng.below(1000));
  EXPECT_EQ(first, (std::vector<std::size_t>{550, 977, 141, 315}));
  EXPECT_NEAR(rng.uniform(), 0.012811414448696323, 1e-15);
  EXPECT_NEAR(rng.normal(), -1.7417098625965164, 1e-14);
  EXPECT_NEAR(rng.normal(), -1.9855227910701325, 1e-14);
  EXPECT_EQ(rng.sign(), 1);
}

TEST(Random, StreamsDoNotDependOnOrderAndDifferInEveryKey) {
  const auto three = [](Stream rng) {
    return std::vector{rng.uniform(), rng.normal(), rng.uniform()};
  };
  Stream a(1, Purpose::init, "a", 0), b(1, Purpose::init, "b", 0);
  std::vector<double> from_a, from_b;
  for (int i = 0; i < 3; ++i) {  // in turn
    from_b.push_back(i == 1 ? b.normal() : b.uniform());
    from_a.push_back(i == 1 ? a.normal() : a.uniform());
  }
  EXPECT_EQ(from_a, three(Stream(1, Purpose::init, "a", 0)));
  EXPECT_EQ(from_b, three(Stream(1, Purpose::init, "b", 0)));
  std::set<double> firsts;
  for (const std::uint64_t seed : {1UL, 2UL, 1UL << 32}) {
    for (const Purpose purpose : {Purpose::init, Purpose::order}) {
      for (const char* parameter : {"", "a", "b"}) {
        for (const std::size_t step : {0, 1, 2}) {
          firsts.insert(Stream(seed, purpose, parameter, step).uniform());
        }
      }
    }
  }
  EXPECT_EQ(firsts.size(), 3u * 2 * 3 * 3);
}

// The mean of `count` draws, which lies within five standard errors of what it should be.
void expect_mean(const char* what, double expected, int count,
                 const std::function<double()>& value) {
  double sum = 0, squares = 0;
  for (int i = 0; i < count; ++i) {
    const double x = value();
    sum += x;
    squares += x * x;
  }
  const double mean = sum / count;
  const double error = std::sqrt(std::max(0.0, squares / count - mean * mean) / count);
  EXPECT_NEAR(mean, expected, 5 * error + 64 * kEps) << what;
}

TEST(Random, DistributionsHaveTheirMoments) {
  constexpr int kCount = 100000;
  Stream rng(5, Purpose::test, "moments");
  const auto power = [](double x, int p) { return std::pow(x, p); };
  for (int p = 1; p <= 4; ++p) {
    expect_mean("uniform", 1.0 / (p + 1), kCount, [&] {
      const double u = rng.uniform();
      EXPECT_TRUE(u > 0 && u < 1);
      return power(u, p);
    });
    const double normal_moment[] = {0, 0, 1, 0, 3};
    expect_mean("normal", normal_moment[p], kCount, [&] { return power(rng.normal(), p); });
  }
  expect_mean("neighbouring normals", 0, kCount, [&] {
    const double one = rng.normal();
    return one * rng.normal();
  });
  expect_mean("sign", 0, kCount, [&] {
    const double s = rng.sign();
    EXPECT_EQ(std::abs(s), 1);
    return s;
  });
  expect_mean("tail", std::erfc(2 / std::numbers::sqrt2), kCount,
              [&] { return std::abs(rng.normal()) > 2; });
}

TEST(Random, MatricesHaveTheirRangeScaleAndEntries) {
  const auto stream = [] { return Stream(5, Purpose::test, "matrices"); };
  const Matrix u = uniform({50, 40}, -2, 3, stream()), s = rademacher({50, 40}, stream());
  const Matrix one = normal({50, 40}, 1, stream());
  for (std::size_t i = 0; i < u.size(); ++i) {
    EXPECT_TRUE(u.data()[i] >= -2 && u.data()[i] <= 3);
    EXPECT_EQ(std::abs(s.data()[i]), 1);
  }
  Matrix three = one;
  scale(three, 3);
  EXPECT_TRUE(near(normal({50, 40}, 3, stream()), three, 15 * kEps));
  Stream rng = stream();
  EXPECT_EQ(u(0, 0), static_cast<Real>(-2 + 5 * rng.uniform()));
}

// Entries of Haar-distributed frames: E q = 0, E q² = 1/n, E q⁴ = 3/n(n + 2), and distinct entries
// are uncorrelated. Without the sign of R the first column would have a mean.
TEST(Random, HaarFramesAreOrthonormalAndUniform) {
  constexpr std::size_t kR = 2, kN = 5;
  constexpr int kCount = 4000;
  for (std::size_t k = 0; k < kR; ++k) {
    for (const std::size_t j : {std::size_t{0}, kN - 1}) {
      for (int p = 1; p <= 4; ++p) {
        const double moment[] = {0, 0, 1.0 / kN, 0, 3.0 / (kN * (kN + 2))};
        std::size_t step = 0;
        expect_mean("haar", moment[p], kCount, [&] {
          return std::pow(haar_rows(kR, kN, Stream(6, Purpose::test, "haar", step++))(k, j), p);
        });
      }
    }
  }
  std::size_t step = 0;
  expect_mean("haar, two entries", 0, kCount, [&] {
    const Matrix q = haar_rows(kR, kN, Stream(6, Purpose::test, "haar", step++));
    EXPECT_TRUE(near(matmul_nt(q, q), identity(kR), 50 * kEps));
    return q(0, 0) * q(1, 1);
  });
}

TEST(Random, BelowIsUnbiased) {
  Stream rng(7, Purpose::test, "below");
  constexpr int kCount = 60000;
  for (std::size_t face = 0; face < 6; ++face) {
    expect_mean("a die", 1.0 / 6, kCount, [&] { return rng.below(6) == face; });
  }
  // A remainder alone would fall below a third of this bound every other time.
  constexpr std::size_t kThird = std::size_t{1} << 62;
  expect_mean("three quarters", 1.0 / 3, kCount, [&] { return rng.below(3 * kThird) < kThird; });
  EXPECT_EQ(rng.below(1), 0u);
}

}  // namespace
}  // namespace gradview
