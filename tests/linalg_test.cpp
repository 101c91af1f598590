// Linear algebra and factored gradients against their definitions, in either precision.
#include "gradview/core/linalg.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"

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

}  // namespace
}  // namespace gradview
