// A Matrix on memory of somebody else's: what is written lands there, and all methods write there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

TEST(Borrowed, ReadsAndWritesTheMemoryItIsOn) {
  std::vector<Real> memory{1, 2, 3, 4, 5, 6};
  Matrix a = borrowed(memory.data(), {2, 3});
  EXPECT_EQ(a, matrix({{1, 2, 3}, {4, 5, 6}}));
  a(1, 0) = 7;
  axpy(a, 1, a);
  EXPECT_EQ(memory, (std::vector<Real>{2, 4, 6, 14, 10, 12}));
  const Matrix other = matrix({{1, 1, 1}, {2, 2, 2}});
  a = other;
  EXPECT_EQ(memory, (std::vector<Real>{1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(a.data(), memory.data());
}

TEST(Borrowed, CopiesOwnTheirEntriesAndMovesCarryTheMemory) {
  std::vector<Real> memory{1, 2, 3, 4};
  Matrix a = borrowed(memory.data(), {2, 2});
  Matrix copy = a;
  copy(0, 0) = 9;
  EXPECT_EQ(memory[0], 1);
  Matrix moved = std::move(a);
  EXPECT_EQ(moved.data(), memory.data());
  moved(0, 0) = 5;
  EXPECT_EQ(memory[0], 5);
  Matrix own = matrix({{0, 0}, {0, 0}});
  own = std::move(moved);
  EXPECT_EQ(own.data(), memory.data());
  own.resize({3, 3});  // memory of its own from here
  EXPECT_NE(own.data(), memory.data());
  own.fill(1);
  EXPECT_EQ(memory, (std::vector<Real>{5, 2, 3, 4}));
}

// The sanitizers see to it that the vector's memory is never released, nor the matrix's own leaked.
TEST(Borrowed, MovingAnotherMatrixIntoItLeavesTheMemoryAlone) {
  std::vector<Real> memory{1, 2, 3, 4};
  for (const std::size_t n :
       {2U, 600U}) {  // small blocks, and those that are kept for the next matrix
    memory.assign(n * n, 1);
    {
      Matrix a = borrowed(memory.data(), {n, n});
      Matrix again = borrowed(memory.data(), {n, n});  // lent twice
      a = zeros({n, n});
      EXPECT_NE(a.data(), memory.data());
      EXPECT_EQ(again.data(), memory.data());
    }
    EXPECT_EQ(std::count(memory.begin(), memory.end(), Real{1}), static_cast<long>(n * n));
    const Matrix fresh = zeros({n, n});
    EXPECT_NE(fresh.data(), memory.data());
  }
}

TEST(Borrowed, EveryMethodStepsInPlaceWithTheSameBits) {
  const Shape shape{7, 9};
  const auto draw = [&](Shape s, std::size_t k) {
    return normal(s, 1, Stream(5, Purpose::init, "d", k));
  };
  for (const Method& method : projectors()) {
    for (const std::string& text : method.law_specs) {
      Matrix own = draw(shape, 0);
      std::vector<Real> memory(own.data(), own.data() + own.size());
      Matrix lent = borrowed(memory.data(), shape);
      const auto make = [&](Matrix& w) {
        Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adamw:weight_decay=0.1")),
                             .lr = 0.01,
                             .steps = 6,
                             .seed = 3});
        const Spec spec = parse_spec(text);
        optimizer.add("w", w, make_projector(spec, optimizer.new_site("w", w)));
        return optimizer;
      };
      Optimizer a = make(own);
      Optimizer b = make(lent);
      for (std::size_t step = 0; step < 4; ++step) {
        const Gradient g = Gradient::outer(share(draw({5, shape.rows}, 2 * step + 1)),
                                           share(draw({5, shape.cols}, 2 * step + 2)));
        for (Optimizer* optimizer : {&a, &b}) {
          optimizer->collect("w", g);
          optimizer->step();
        }
        ASSERT_EQ(lent.data(), memory.data()) << text;
        ASSERT_TRUE(std::equal(memory.begin(), memory.end(), own.data()))
            << text << ", step " << step;
      }
    }
  }
}

// Rows of a gradient are what δᵀ x is with one-hot δ, in every product that a Gradient has.
TEST(Gradient, RowsAreAnEmbeddingsOuterProduct) {
  const std::size_t m = 6, n = 8;
  const auto draw = [&](Shape s, std::size_t k) {
    return normal(s, 1, Stream(6, Purpose::init, "r", k));
  };
  const std::vector<std::size_t> index{4, 1, 5};
  Matrix delta = zeros({3, m});
  for (std::size_t k = 0; k < 3; ++k) delta(k, index[k]) = 1;
  const auto x = share(draw({3, n}, 1));
  Gradient some(Shape{m, n}), outer(Shape{m, n});
  some.add(Gradient::rows(m, index, x), 0.5);
  outer.add(Gradient::outer(share(delta), x), 0.5);
  const Gradient more = Gradient::dense(draw({m, n}, 2));
  const Matrix u = draw({m, 2}, 3), v = draw({2, n}, 4), w = draw({m, n}, 5), b = draw({3, 2}, 6);
  const double eps = std::numeric_limits<Real>::epsilon();
  const auto near = [&](const Matrix& one,
                        const Matrix& other) {  // sums of at most m n products of O(1)
    ASSERT_EQ(shape_of(one), shape_of(other));
    EXPECT_LE(std::sqrt(squared_norm(difference(one, other))), 8.0 * m * n * eps);
  };
  for (const bool mixed : {false, true}) {
    if (mixed) some.add(more), outer.add(more);
    near(some.materialize(), outer.materialize());
    near(some.materialize_rows(1, 4), outer.materialize_rows(1, 4));
    near(matmul_nt(some, v), matmul_nt(outer, v));
    near(matmul_tn(u, some), matmul_tn(u, outer));
    near(sides(some, u, v).left, sides(outer, u, v).left);
    near(folded(some, 2).right, folded(outer, 2).right);
    near(folded(some, 2).left, folded(outer, 2).left);
    near(fold_rows(some, 3), fold_rows(outer, 3));
    near(fold_columns(some, 1), fold_columns(outer, 1));
    near(row_dots(some, w), row_dots(outer, w));
    near(block_dots(some, b), block_dots(outer, b));
    near(block_sum(some, b), block_sum(outer, b));
    EXPECT_NEAR(dot(some, w), dot(outer, w), 8.0 * m * n * eps);
    EXPECT_NEAR(squared_norm(some), squared_norm(outer), 8.0 * m * n * eps * squared_norm(outer));
    EXPECT_TRUE(some.finite());
  }
  EXPECT_THROW(Gradient::rows(5, {5}, share(draw({1, n}, 7))), std::invalid_argument);
  EXPECT_THROW(Gradient::rows(m, {5, 1}, x), std::invalid_argument);
}

}  // namespace
}  // namespace gradview
