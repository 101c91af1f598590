// Random numbers: Philox's known answers, one stream one by one and by the array, distributions.
#include "gradview/core/rng.hpp"

#include <Random123/philox.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "gradview/core/kernels/normal.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"

namespace gradview {
namespace {

namespace kernel = GRADVIEW_ISA;

constexpr double kEps = std::numeric_limits<Real>::epsilon();

std::array<std::uint64_t, 2> words_of(const r123::Philox4x32::ctr_type& lanes) {
  return {lanes[0] | static_cast<std::uint64_t>(lanes[1]) << 32,
          lanes[2] | static_cast<std::uint64_t>(lanes[3]) << 32};
}

std::array<std::uint64_t, 2> block(const kernel::Philox& state, std::uint32_t after) {
  const kernel::Words words = kernel::philox(state, after);
  return {words.first, words.second};
}

// The known answers that Random123 ships with (kat_vectors, philox4x32 10).
TEST(Random, PhiloxGivesItsKnownAnswers) {
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(block({{0, 0, 0, 0}, {0, 0}}, 0),
            words_of({{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
  EXPECT_EQ(block({{kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}}, 0),
            words_of({{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
  EXPECT_EQ(block({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}}, 0),
            words_of({{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}

TEST(Random, PhiloxIsThatOfRandom123) {
  std::uint32_t lane = 0;
  const auto next = [&lane] { return lane = lane * 1664525 + 1013904223; };
  for (int i = 0; i < 1000; ++i) {
    const kernel::Philox state{{next(), next(), next(), next()}, {next(), next()}};
    const std::uint32_t after = next(), *c = state.counter;
    EXPECT_EQ(block(state, after), words_of(r123::Philox4x32{}({{c[0] + after, c[1], c[2], c[3]}},
                                                               {{state.key[0], state.key[1]}})));
  }
}

// |got - want| in units of the last place of `want`.
double ulps(double got, long double want) {
  const double size = std::abs(static_cast<double>(want));
  const double ulp = std::nextafter(size, std::numeric_limits<double>::infinity()) - size;
  return static_cast<double>(std::abs(got - want)) / ulp;
}

TEST(Random, LogarithmAndCircleAreWithinTwoUlp) {
  const auto expect_close = [](double u) {
    EXPECT_LE(ulps(kernel::logarithm(u), std::log(static_cast<long double>(u))), 2) << u;
    const double quarters = std::nearbyint(4 * u);
    const long double x = 2 * std::numbers::pi_v<long double> * (u - quarters / 4);  // exact
    const long double c = std::cos(x), s = std::sin(x);
    const int q = static_cast<int>(quarters) % 4;
    const kernel::Pair on_circle = kernel::circle(u);
    EXPECT_LE(ulps(on_circle.first, q == 0 ? c : q == 1 ? -s : q == 2 ? -c : s), 2) << u;
    EXPECT_LE(ulps(on_circle.second, q == 0 ? s : q == 1 ? c : q == 2 ? -s : -c), 2) << u;
  };
  constexpr double kFirst = 0x1p-53;
  Stream rng(9, Purpose::test, "ulps");
  for (int k = 0; k < 52; ++k) {
    for (int i = 0; i < 1000; ++i) {
      const double near_zero = std::ldexp(rng.uniform(), -k);
      expect_close(near_zero + kFirst);
      expect_close(1 - near_zero);
    }
    expect_close(std::ldexp(1.0, -k - 1));
  }
  expect_close(kFirst);
  expect_close(1 - kFirst);
  for (const double turn : {0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, std::sqrt(0.5)}) {
    for (int k = -100; k <= 100; ++k) expect_close(turn + k * kFirst);
  }
}

TEST(Random, UniformsReachBothEndsOfTheirRangeAndSignsAreTheFirstBit) {
  EXPECT_EQ(kernel::uniform(0), 0x1p-53);
  EXPECT_EQ(kernel::uniform(UINT64_MAX), 1 - 0x1p-53);
  EXPECT_EQ(kernel::uniform(std::uint64_t{1} << 63), 0.5 + 0x1p-53);
  EXPECT_EQ(kernel::sign(UINT64_MAX >> 1), -1);
  EXPECT_EQ(kernel::sign(std::uint64_t{1} << 63), 1);
}

// Any count and any position in a block, to the bit, and the stream goes on where it should.
TEST(Random, ArraysAreTheStreamOneByOne) {
  using Numbers = std::vector<Real>;
  struct Kind {
    const char* name;
    std::function<void(Stream&, Numbers&)> fill;
    std::function<double(Stream&)> draw;
  };
  const Kind kinds[] = {
      {"uniform", [](Stream& s, Numbers& a) { s.fill_uniform(a.data(), a.size(), -0.3, 1.7); },
       [](Stream& s) { return -0.3 + (1.7 - -0.3) * s.uniform(); }},
      {"normal", [](Stream& s, Numbers& a) { s.fill_normal(a.data(), a.size(), 0.7); },
       [](Stream& s) { return 0.7 * s.normal(); }},
      {"sign", [](Stream& s, Numbers& a) { s.fill_sign(a.data(), a.size()); },
       [](Stream& s) { return s.sign(); }}};
  for (const Kind& kind : kinds) {
    for (int uniforms = 0; uniforms < 3; ++uniforms) {
      for (int normals = 0; normals < 3; ++normals) {
        for (const std::size_t count : {0, 1, 2, 3, 7, 64, 127, 128, 129, 131, 257, 1000}) {
          Stream whole(8, Purpose::test, "arrays", count);
          for (int i = 0; i < uniforms; ++i) whole.uniform();
          for (int i = 0; i < normals; ++i) whole.normal();
          Stream single = whole;
          Numbers at_once(count), one_by_one(count);
          kind.fill(whole, at_once);
          for (Real& x : one_by_one) x = static_cast<Real>(kind.draw(single));
          EXPECT_EQ(at_once, one_by_one) << kind.name << " " << uniforms << " " << normals;
          EXPECT_EQ(whole.normal(), single.normal());
          EXPECT_EQ(whole.uniform(), single.uniform());
        }
      }
    }
  }
}

TEST(Random, MatricesAreFilledRowByRow) {
  const auto stream = [] { return Stream(8, Purpose::test, "rows"); };
  const Matrix a = normal({5, 61}, 0.7, stream()), b = uniform({5, 61}, -2, 3, stream());
  const Matrix c = rademacher({5, 61}, stream());
  Stream normals = stream(), uniforms = stream(), signs = stream();
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 61; ++j) {
      EXPECT_EQ(a(i, j), static_cast<Real>(0.7 * normals.normal()));
      EXPECT_EQ(b(i, j), static_cast<Real>(-2 + 5 * uniforms.uniform()));
      EXPECT_EQ(c(i, j), static_cast<Real>(signs.sign()));
    }
  }
}

TEST(Random, BlocksAreCountedRoundTheEndOf32Bits) {
  const kernel::Philox state{{UINT32_MAX - 70, 1, 2, 3}, {4, 5}};
  std::vector<double> numbers(400);
  kernel::fill_normals(numbers.data(), numbers.size() / 2, state, 1);
  for (std::size_t i = 0; i < numbers.size() / 2; ++i) {
    const auto counter = static_cast<std::uint32_t>(i) + (UINT32_MAX - 70);
    const kernel::Pair pair = kernel::normals(kernel::philox({{counter, 1, 2, 3}, {4, 5}}, 0));
    EXPECT_EQ(numbers[2 * i], pair.first);
    EXPECT_EQ(numbers[2 * i + 1], pair.second);
  }
}

// Pinned to the bit: the same on every machine, with every compiler and instruction set.
TEST(Random, NormalsHaveTheSameBitsEverywhere) {
  Stream rng(2023, Purpose::init, "w", 7);
  std::string bytes;
  for (int i = 0; i < 10000; ++i) {
    for (auto bits = std::bit_cast<std::uint64_t>(rng.normal()); bits != 0; bits >>= 8) {
      bytes += static_cast<char>(bits & 0xff);
    }
  }
  EXPECT_EQ(fnv1a(bytes), 7934127600149522062u);
}

TEST(Random, StreamIsPhiloxKeyedByItsFourKeys) {
  constexpr std::uint64_t kSeed = 0x0123456789abcdef;
  Stream rng(kSeed, Purpose::left_frame, "fc1.weight", 42);
  for (std::uint32_t block = 0; block < 3; ++block) {
    const auto words =
        words_of(r123::Philox4x32{}({{block, 42, static_cast<std::uint32_t>(fnv1a("fc1.weight")),
                                      static_cast<std::uint32_t>(Purpose::left_frame)}},
                                    {{0x89abcdef, 0x01234567}}));
    for (const std::uint64_t word : words) {
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
  const Matrix three = normal({50, 40}, 3, stream());
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_NEAR(three.data()[i], 3 * one.data()[i], 15 * kEps);
  }
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
    const Matrix gram = matmul_nt(q, q);
    for (std::size_t i = 0; i < kR; ++i) {
      for (std::size_t j = 0; j < kR; ++j) EXPECT_NEAR(gram(i, j), i == j, 50 * kEps);
    }
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
