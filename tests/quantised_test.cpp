// Weights in 4 bits: what bitsandbytes makes of them, recorded by tests/golden/bitsandbytes_nf4.py,
// the error that they leave, and the products.
#include "gradview/core/quantised.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/io/safetensors.hpp"

namespace gradview {
namespace {

const SafetensorsReader& recorded() {
  static const SafetensorsReader file(GRADVIEW_TESTS_DIR "/golden/bitsandbytes_nf4.safetensors");
  return file;
}

const Tensor& tensor(const std::string& name) {
  const Tensor* found = recorded().find(name);
  if (!found) throw std::runtime_error(recorded().path() + ": no tensor '" + name + "'");
  return *found;
}

Matrix numbers(const std::string& name) { return recorded().matrix(tensor(name)); }

std::vector<float> floats(const std::string& name) {
  const Matrix m = numbers(name);
  return {m.data(), m.data() + m.size()};
}

std::vector<std::uint8_t> bytes(const std::string& name) {
  const auto all = recorded().integers(tensor(name));
  return {all.begin(), all.end()};
}

Matrix gaussian(Shape shape, const char* key) {
  return normal(shape, 1, Stream(1, Purpose::test, key));
}

Matrix whole(const QuantisedMatrix& w) { return w.rows(0, w.shape().rows); }

double relative_error(const QuantisedMatrix& q, const Matrix& w) {
  return std::sqrt(squared_norm(difference(whole(q), w)) / squared_norm(w));
}

TEST(Quantised, TableIsThatOfBitsandbytesToTheBit) {
  EXPECT_EQ(QuantisedMatrix::table(FourBit::nf4), floats("table"));
  // The last bits of the map follow the vectors of the CPU that torch.linspace ran on.
  const std::vector<float> map = floats("map");
  ASSERT_EQ(QuantisedMatrix::map().size(), map.size());
  for (std::size_t i = 0; i < map.size(); ++i) {
    EXPECT_NEAR(QuantisedMatrix::map()[i], map[i], 3 * 6e-8 * std::abs(map[i])) << i;
  }
  const std::vector<std::uint32_t> bits = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0,
                                           0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
                                           0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                                           0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
  std::vector<std::uint32_t> ours(16);
  std::memcpy(ours.data(), QuantisedMatrix::table(FourBit::nf4).data(), 16 * sizeof(float));
  EXPECT_EQ(ours, bits);
}

class QuantisedGolden : public testing::TestWithParam<const char*> {};

TEST_P(QuantisedGolden, CodesAndNumbersAreThoseOfBitsandbytes) {
  const std::string name = GetParam();
  const QuantisedMatrix q(numbers(name + ".w"));
  EXPECT_EQ(q.codes(), bytes(name + ".codes"));
  const auto all = bytes(name + ".bytes");
  for (std::size_t b = 0; b < all.size(); ++b) {
    if (q.tops()[b / q.kGroup] == 0) continue;  // times 0
    EXPECT_EQ(q.block_bytes()[b], all[b]) << b;
  }
  // The mean is summed in double here: one rounding away, and so is what is divided by it.
  const double ulp = 4 * 1.2e-7;
  EXPECT_NEAR(q.mean(), floats(name + ".mean")[0], ulp * std::abs(q.mean()));
  const std::vector<float> tops = floats(name + ".tops");
  ASSERT_EQ(q.tops().size(), tops.size());
  for (std::size_t c = 0; c < tops.size(); ++c) {
    EXPECT_NEAR(q.tops()[c], tops[c], ulp * std::abs(q.mean()));
  }
  const Matrix again = numbers(name + ".again"), ours = whole(q);
  for (std::size_t k = 0; k < again.size(); ++k) {
    EXPECT_NEAR(ours.data()[k], again.data()[k], 2 * ulp * std::abs(q.mean())) << k;
  }
}

INSTANTIATE_TEST_SUITE_P(Quantised, QuantisedGolden, testing::Values("normal", "uneven", "ties"));

// Over the RMS of 4 million numbers; a standard error of some 1e-4 of it.
TEST(Quantised, ErrorOfGaussianNumbersIsThatOfTheirBlocks) {
  const Matrix w = gaussian({1024, 1024}, "w");
  EXPECT_NEAR(relative_error(QuantisedMatrix(w), w), 0.0919, 0.001);
  EXPECT_NEAR(relative_error(QuantisedMatrix(w, FourBit::int4), w), 0.1077, 0.001);
}

TEST(Quantised, TakesFourBitsAndAnEighthANumber) {
  const QuantisedMatrix q(gaussian({1024, 768}, "w"));
  const double bits = 8 * static_cast<double>(q.bytes() - sizeof(float)) / (1024 * 768);
  EXPECT_EQ(bits, 4 + 8.0 / 64 + 32.0 / (64 * 256));
  EXPECT_NEAR(bits, 4.127, 0.0005);
}

TEST(Quantised, IntegersOfOneBlockComeBack) {  // multiples of a seventh of the maximum
  Matrix w = zeros({1, 64});
  for (std::size_t k = 0; k < 64; ++k) w(0, k) = static_cast<Real>(static_cast<int>(k % 15) - 7);
  const QuantisedMatrix q(w, FourBit::int4);
  for (std::size_t k = 0; k < 64; ++k) EXPECT_NEAR(whole(q)(0, k), w(0, k), 7 * 4 * 1.2e-7);
}

TEST(Quantised, BlocksOfZerosStayZero) {
  Matrix w = gaussian({6, 64}, "w");
  for (std::size_t k = 0; k < 64; ++k) w(2, k) = 0;
  for (const FourBit type : {FourBit::nf4, FourBit::int4}) {
    const Matrix again = whole(QuantisedMatrix(w, type));
    for (std::size_t k = 0; k < 64; ++k) EXPECT_EQ(again(2, k), 0);
    EXPECT_EQ(squared_norm(whole(QuantisedMatrix(zeros({3, 50}), type))), 0);
  }
}

TEST(Quantised, RowsOfAnyPanelAreThoseOfTheWhole) {
  const QuantisedMatrix q(gaussian({13, 37}, "w"));  // odd rows that straddle blocks
  const Matrix all = whole(q);
  for (std::size_t first = 0; first < 13; ++first) {
    for (std::size_t count = 1; first + count <= 13; ++count) {
      EXPECT_EQ(q.rows(first, count), rows(all, first, count));
    }
  }
  EXPECT_THROW(q.rows(12, 2), std::invalid_argument);
}

// Sums of n products in another order: n ε a term.
TEST(Quantised, ProductsAreThoseOfWhatIsMadeAgain) {
  const Shape shape{301, 515};  // three panels, the last one short
  const QuantisedMatrix q(gaussian(shape, "w"));
  ASSERT_GT(shape.rows, 2 * q.panel_rows());
  const Matrix w = whole(q), x = gaussian({9, 515}, "x"), d = gaussian({9, 301}, "d");
  const double eps = std::numeric_limits<Real>::epsilon();
  const auto near = [&](const Matrix& a, const Matrix& b, double terms) {
    const double most = terms * eps * std::sqrt(squared_norm(b));
    EXPECT_LE(std::sqrt(squared_norm(difference(a, b))), most);
  };
  near(matmul_nt(x, q), matmul_nt(x, w), 515);
  near(matmul(d, q), matmul(d, w), 301);
  Matrix y = gaussian({9, 301}, "y"), z = y;
  add_matmul_nt(y, -0.5, x, q);
  add_matmul_nt(z, -0.5, x, w);
  near(y, z, 515);
  const Gradient g = Gradient::outer(share(d), share(x));
  near(row_dots(g, q), row_dots(g, w), 515);
  near(squared_row_norms(q), row_dots(w, w), 515);
  EXPECT_THROW(matmul_nt(d, q), std::invalid_argument);
  EXPECT_THROW(matmul(x, q), std::invalid_argument);
}

TEST(Quantised, RefusesWhatIsNotFinite) {
  Matrix w = zeros({2, 64});
  w(1, 3) = std::numeric_limits<Real>::infinity();
  EXPECT_THROW(QuantisedMatrix{w}, std::invalid_argument);
  EXPECT_THROW(four_bit("nf5"), std::invalid_argument);
}

}  // namespace
}  // namespace gradview
