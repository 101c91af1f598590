// Products in bfloat16 against their definition and bound; where they do not run, that they say so.
#include "gradview/core/bf16.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/mlp.hpp"

namespace gradview {
namespace {

const float kNaN = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

Matrix draw(Shape shape, const char* name) {
  return normal(shape, 1, Stream(1, Purpose::test, name));
}

Matrix matmul_bf16(const Matrix& a, const Matrix& b) {
  return matmul(Operand(a, Compute::bf16), Operand(b, Compute::bf16));
}
Matrix matmul_nt_bf16(const Matrix& a, const Matrix& b) {
  return matmul_nt(Operand(a, Compute::bf16), Operand(b, Compute::bf16));
}

struct WithThreads {
  explicit WithThreads(std::size_t threads) { set_threads(threads); }
  ~WithThreads() { set_threads(1); }
};

// Odd, flat, tall, thin, and of more than one piece by rows and by columns.
struct Sizes {
  std::size_t m, k, n;
};
constexpr Sizes kSizes[] = {{1, 1, 1},    {3, 5, 7},     {17, 33, 129},  {130, 1, 31},
                            {515, 96, 8}, {31, 64, 777}, {520, 257, 513}};

// u = 2⁻⁸ / (1 + 2⁻⁸): the largest relative error of rounding to 8 bits. Then sums of k in float.
testing::AssertionResult is_product(const Matrix& got, const Matrix& a, const Matrix& b,
                                    bool transposed) {
  const std::size_t k = a.shape()[1];
  const double u = std::ldexp(1.0, -8) / (1 + std::ldexp(1.0, -8));
  const double relative = 2 * u + u * u + (static_cast<double>(k) + 2) * std::ldexp(1.0, -23);
  for (std::size_t i = 0; i < got.shape()[0]; ++i) {
    for (std::size_t j = 0; j < got.shape()[1]; ++j) {
      double sum = 0, size = 0;
      for (std::size_t l = 0; l < k; ++l) {
        const double term = double(a(i, l)) * double(transposed ? b(j, l) : b(l, j));
        sum += term;
        size += std::abs(term);
      }
      if (std::abs(got(i, j) - sum) <= relative * size) continue;
      return testing::AssertionFailure() << "(" << i << ", " << j << ") is " << got(i, j)
                                         << ", not " << sum << " ± " << relative * size;
    }
  }
  return testing::AssertionSuccess();
}

#define NEEDS_BF16() \
  if (!bf16_runs_here()) GTEST_SKIP() << bf16_description()

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  for (std::uint64_t bits = 0; bits < 1ull << 32; bits += 4099) {  // a prime: all lower halves
    for (const std::uint32_t lower : {0x0000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, 0x12345u}) {
      const auto pattern =
          lower == 0x12345u ? std::uint32_t(bits) : (std::uint32_t(bits) & 0xffff0000u) | lower;
      const auto x = std::bit_cast<float>(pattern);
      const std::uint16_t got = to_bf16(x);
      const float back = from_bf16(got);
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(back)) << std::hex << pattern;
        continue;
      }
      const auto below = static_cast<std::uint16_t>(pattern >> 16);  // towards zero
      if (std::isinf(x)) {
        ASSERT_EQ(got, below);
        continue;
      }
      const double down = from_bf16(below);  // the next one away from zero may be infinity
      const double step = below & 0x7f80 ? std::ldexp(1.0, ((below >> 7) & 0xff) - 127 - 7)
                                         : std::ldexp(1.0, -126 - 7);
      const double distance = std::abs(double(x)) - std::abs(down);  // exact
      const bool up = distance > step / 2 || (distance == step / 2 && (below & 1));
      ASSERT_EQ(got, below + (up ? 1 : 0)) << std::hex << pattern;
    }
  }
}

TEST(Bf16, ProductsStayWithinTheBoundOfTheirRounding) {
  NEEDS_BF16();
  for (const auto& [m, k, n] : kSizes) {
    const Matrix a = draw({m, k}, "a");
    const Matrix b = draw({k, n}, "b");
    EXPECT_TRUE(is_product(matmul_bf16(a, b), a, b, false)) << m << " " << k << " " << n;
    const Matrix bt = transpose(b);
    EXPECT_TRUE(is_product(matmul_nt_bf16(a, bt), a, bt, true)) << m << " " << k << " " << n;
  }
}

TEST(Bf16, ProductsOfWhatBfloat16HoldsAreThoseOfFloat) {  // small integers: nothing is rounded
  NEEDS_BF16();
  Matrix a = uninitialized({70, 90});
  Matrix b = uninitialized({90, 50});
  for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] = static_cast<Real>(i * 7 % 31) - 15;
  for (std::size_t i = 0; i < b.size(); ++i) b.data()[i] = static_cast<Real>(i * 11 % 29) - 14;
  EXPECT_EQ(matmul_bf16(a, b), matmul(a, b));
  EXPECT_EQ(matmul_nt_bf16(a, transpose(b)), matmul(a, b));
}

TEST(Bf16, TheBitsAreTheSameForAnyNumberOfThreads) {
  NEEDS_BF16();
  for (const auto& [m, k, n] : kSizes) {
    const Matrix a = draw({m, k}, "a");
    const Matrix b = draw({k, n}, "b");
    const Matrix bt = transpose(b);
    const Matrix one = matmul_bf16(a, b);
    const Matrix one_nt = matmul_nt_bf16(a, bt);
    for (const std::size_t threads : {2, 3, 8}) {
      const WithThreads scope(threads);
      const Matrix many = matmul_bf16(a, b);
      const Matrix many_nt = matmul_nt_bf16(a, bt);
      EXPECT_EQ(std::memcmp(many.data(), one.data(), one.size() * sizeof(Real)), 0);
      EXPECT_EQ(std::memcmp(many_nt.data(), one_nt.data(), one.size() * sizeof(Real)), 0);
    }
  }
}

TEST(Bf16, WhatIsNotFiniteStaysSo) {
  NEEDS_BF16();
  Matrix a = draw({40, 50}, "a");
  Matrix b = draw({50, 60}, "b");
  a(3, 7) = kNaN;
  a(5, 8) = kInfinity;
  b(20, 11) = -kInfinity;
  const Matrix c = matmul_bf16(a, b);
  for (std::size_t i = 0; i < 40; ++i) {
    for (std::size_t j = 0; j < 60; ++j) {
      if (i == 3) {
        EXPECT_TRUE(std::isnan(c(i, j))) << i << " " << j;
      } else if (i == 5) {
        EXPECT_FALSE(std::isfinite(c(i, j))) << i << " " << j;
      } else if (j == 11) {
        EXPECT_EQ(c(i, j), a(i, 20) > 0 ? -kInfinity : kInfinity) << i << " " << j;
      } else {
        EXPECT_TRUE(std::isfinite(c(i, j))) << i << " " << j;
      }
    }
  }
}

TEST(Bf16, ShapesThatDisagreeAreRefused) {
  EXPECT_THROW(matmul_bf16(draw({2, 3}, "a"), draw({4, 5}, "b")), std::exception);
  NEEDS_BF16();
  EXPECT_THROW(matmul_bf16(draw({2, 3}, "a"), draw({4, 5}, "b")), std::invalid_argument);
  EXPECT_THROW(matmul_nt_bf16(draw({2, 3}, "a"), draw({4, 5}, "b")), std::invalid_argument);
  EXPECT_EQ(matmul_bf16(zeros({2, 0}), zeros({0, 3})), zeros({2, 3}));
}

TEST(Bf16, WhereItDoesNotRunProductsSayWhy) {
  if (bf16_runs_here()) GTEST_SKIP() << bf16_description();
  try {
    matmul_nt_bf16(draw({2, 3}, "a"), draw({4, 3}, "b"));
    FAIL() << "a product came out";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find(bf16_description()), std::string::npos);
  }
}

// One hidden layer without biases: its gradients are those of the same products written out.
TEST(Bf16, AnMlpMultipliesByItsWeightsInBfloat16AndInNothingElse) {
  NEEDS_BF16();
  const Mlp mlp{{20, 30, 10}, Activation::relu, Compute::bf16};
  const Weights weights = mlp.initial(1);
  const Matrix x = draw({40, 20}, "x");
  const Matrix delta = draw({40, 10}, "delta");
  const auto pass = mlp.forward(weights, x);
  Matrix sums = matmul_nt_bf16(x, weights["fc1.weight"]);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums.data()[i] += weights["fc1.bias"].data()[i % 30];
  }
  EXPECT_EQ(pass.sums[0], sums);
  mlp.backward(pass, delta, [&](const std::string& name, const Gradient& g) {
    if (name == "fc2.weight") {
      EXPECT_EQ(g.materialize(), matmul_tn(delta, *pass.inputs[1]));
    }
    if (name != "fc1.weight") return;
    Matrix d = matmul_bf16(delta, weights["fc2.weight"]);
    times_derivative(Activation::relu, sums, d);
    EXPECT_EQ(g.materialize(), matmul_tn(d, x));
  });
}

}  // namespace
}  // namespace gradview
