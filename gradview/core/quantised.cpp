#include "gradview/core/quantised.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"

namespace gradview {
namespace {

// The number between each two neighbours, in float.
std::vector<float> midpoints(const std::vector<float>& values) {
  std::vector<float> out;
  for (std::size_t i = 1; i < values.size(); ++i) out.push_back((values[i - 1] + values[i]) / 2);
  return out;
}

std::uint8_t nearest(const std::vector<float>& between, float x) {
  return static_cast<std::uint8_t>(std::lower_bound(between.begin(), between.end(), x) -
                                   between.begin());
}

// max|x| of each block, and the codes of x over it. As bitsandbytes multiplies whole blocks by the
// reciprocal and divides what is left over, so does this.
template <class Take>
std::vector<float> quantise(std::size_t size, std::size_t block, const std::vector<float>& values,
                            const Take& take, std::vector<std::uint8_t>& codes) {
  const std::vector<float> between = midpoints(values);
  const std::size_t blocks = (size + block - 1) / block;
  std::vector<float> absmax(blocks);
  codes.resize(size);
  parallel_blocks(blocks, 64, [&](std::size_t first, std::size_t last) {
    for (std::size_t b = first; b < last; ++b) {
      const std::size_t begin = b * block, end = std::min(begin + block, size);
      float most = 0;
      for (std::size_t k = begin; k < end; ++k) most = std::max(most, std::abs(take(k)));
      absmax[b] = most;
      const float divisor = std::max(most, 1e-38F);
      const float inverse = 1 / divisor;
      for (std::size_t k = begin; k < end; ++k) {
        const float x = end - begin == block ? take(k) * inverse : take(k) / divisor;
        codes[k] = nearest(between, std::clamp(x, -1.0F, 1.0F));
      }
    }
  });
  return absmax;
}

}  // namespace

std::string to_string(FourBit type) { return type == FourBit::nf4 ? "nf4" : "int4"; }

FourBit four_bit(const std::string& name) {
  if (name == "nf4") return FourBit::nf4;
  if (name == "int4") return FourBit::int4;
  throw std::invalid_argument("no 4-bit type '" + name + "'; there are nf4, int4");
}

const std::vector<float>& QuantisedMatrix::table(FourBit type) {
  static const std::vector<float> normal = {
      -1.0F,
      -0.6961928009986877F,
      -0.5250730514526367F,
      -0.39491748809814453F,
      -0.28444138169288635F,
      -0.18477343022823334F,
      -0.09105003625154495F,
      0.0F,
      0.07958029955625534F,
      0.16093020141124725F,
      0.24611230194568634F,
      0.33791524171829224F,
      0.44070982933044434F,
      0.5626170039176941F,
      0.7229568362236023F,
      1.0F,
  };
  static const std::vector<float> even = [] {
    std::vector<float> out;
    for (int i = -7; i <= 7; ++i) out.push_back(static_cast<float>(i) / 7);
    return out;
  }();
  return type == FourBit::nf4 ? normal : even;
}

const std::vector<float>& QuantisedMatrix::map() {
  static const std::vector<float> values = [] {
    std::vector<float> out = {0, 1};
    for (int i = 0; i < 7; ++i) {
      const int centres = 1 << i;
      for (int k = 0; k < centres; ++k) {
        const double centre = std::pow(10.0, i - 6) * (0.1 + 0.9 * (k + 0.5) / centres);
        out.push_back(static_cast<float>(centre));
        out.push_back(static_cast<float>(-centre));
      }
    }
    std::sort(out.begin(), out.end());
    return out;
  }();
  return values;
}

QuantisedMatrix::QuantisedMatrix(const Matrix& w, FourBit type) : shape_(shape_of(w)), type_(type) {
  if (!all_finite(w)) {
    throw std::invalid_argument("QuantisedMatrix: a weight has entries that are not finite");
  }
  const std::size_t size = w.size();
  const Real* from = w.data();
  std::vector<std::uint8_t> codes;
  std::vector<float> maxima = quantise(
      size, kBlock, table(type), [=](std::size_t k) { return static_cast<float>(from[k]); }, codes);
  if (size % 2 == 1) codes.push_back(nearest(midpoints(table(type)), 0));
  codes_.resize(codes.size() / 2);
  for (std::size_t k = 0; k < codes_.size(); ++k) {
    codes_[k] = static_cast<std::uint8_t>(codes[2 * k] << 4 | codes[2 * k + 1]);
  }
  double sum = 0;
  for (const float most : maxima) sum += static_cast<double>(most);
  mean_ = maxima.empty() ? 0 : static_cast<float>(sum / static_cast<double>(maxima.size()));
  tops_ = quantise(
      maxima.size(), kGroup, map(), [&](std::size_t b) { return maxima[b] - mean_; }, block_bytes_);
}

std::size_t QuantisedMatrix::bytes() const {
  return codes_.size() + block_bytes_.size() + sizeof(float) * (tops_.size() + 1);
}

float QuantisedMatrix::absmax(std::size_t block) const {
  const float product = map()[block_bytes_[block]] * tops_[block / kGroup];
  return product + mean_;
}

void QuantisedMatrix::make(std::size_t begin, std::size_t end, Real* to) const {
  const float* values = table(type_).data();
  while (begin < end) {
    const std::size_t block = begin / kBlock;
    const std::size_t last = std::min(end, (block + 1) * kBlock);
    const float most = absmax(block);
    Real scaled[16] = {};
    for (std::size_t c = 0; c < table(type_).size(); ++c) {
      scaled[c] = static_cast<Real>(values[c] * most);
    }
    if (begin % 2 == 1) *to++ = scaled[codes_[begin++ / 2] & 15U];
    for (; begin + 1 < last; begin += 2) {
      const std::uint8_t both = codes_[begin / 2];
      *to++ = scaled[both >> 4U];
      *to++ = scaled[both & 15U];
    }
    if (begin < last) *to++ = scaled[codes_[begin++ / 2] >> 4U];
  }
}

std::size_t QuantisedMatrix::panel_rows() const {
  return std::max<std::size_t>(1, kPanel / std::max<std::size_t>(1, shape_.cols));
}

Matrix QuantisedMatrix::rows(std::size_t first, std::size_t count) const {
  if (first + count > shape_.rows) {
    throw std::invalid_argument("QuantisedMatrix::rows: " + std::to_string(count) + " from row " +
                                std::to_string(first) + " of " + to_string(shape_));
  }
  const std::size_t n = shape_.cols;
  Matrix out = uninitialized({count, n});
  parallel_blocks(count, 32, [&](std::size_t begin, std::size_t end) {
    make((first + begin) * n, (first + end) * n, out.data() + begin * n);
  });
  return out;
}

void add_matmul_nt(Matrix& c, double s, const Operand& x, const QuantisedMatrix& w) {
  const auto [tokens, n] = shape_of(x.real());
  const std::size_t m = w.shape().rows;
  require_shape("matmul_nt", "the quantised weight", w.shape(), {m, n});
  require_shape("add_matmul_nt", "c", shape_of(c), {tokens, m});
  w.each_panel([&](std::size_t first, const Matrix& panel) {
    const Matrix part = matmul_nt(x, {panel, x.compute()});  // N x p
    const std::size_t p = panel.shape()[0];
    for (std::size_t t = 0; t < part.shape()[0]; ++t) {
      const Real* from = part.data() + t * p;
      Real* to = c.data() + t * m + first;
      for (std::size_t i = 0; i < p; ++i) to[i] += static_cast<Real>(s) * from[i];
    }
  });
}

void add_matmul(Matrix& c, double s, const Operand& d, const QuantisedMatrix& w) {
  const auto [tokens, m] = shape_of(d.real());
  require_shape("matmul", "the quantised weight", w.shape(), {m, w.shape().cols});
  require_shape("add_matmul", "c", shape_of(c), {tokens, w.shape().cols});
  w.each_panel([&](std::size_t first, const Matrix& panel) {
    const Matrix part = columns(d.real(), first, panel.shape()[0]);  // N x p
    add_matmul(c, s, {part, d.compute()}, {panel, d.compute()});
  });
}

Matrix matmul_nt(const Operand& x, const QuantisedMatrix& w) {
  Matrix y = zeros({x.real().shape()[0], w.shape().rows});
  add_matmul_nt(y, 1, x, w);
  return y;
}

Matrix matmul(const Operand& d, const QuantisedMatrix& w) {
  Matrix y = zeros({d.real().shape()[0], w.shape().cols});
  add_matmul(y, 1, d, w);
  return y;
}

Matrix matmul_tn(const Matrix& u, const QuantisedMatrix& w) { return matmul(transpose(u), w); }

Matrix matmul_nt(const QuantisedMatrix& w, const Matrix& v) { return transpose(matmul_nt(v, w)); }

Matrix columns(const QuantisedMatrix& w, std::size_t first, std::size_t count) {
  Matrix out = uninitialized({w.shape().rows, count});
  w.each_panel([&](std::size_t row, const Matrix& panel) {
    const Matrix part = columns(panel, first, count);
    std::copy_n(part.data(), part.size(), out.data() + row * count);
  });
  return out;
}

Matrix row_dots(const Gradient& g, const QuantisedMatrix& w) {
  require_shape("row_dots", "G", g.shape(), w.shape());
  Matrix out = zeros({w.shape().rows, 1});
  w.each_panel([&](std::size_t first, const Matrix& panel) {
    const Matrix part = row_dots(g.materialize_rows(first, panel.shape()[0]), panel);
    std::copy_n(part.data(), part.size(), out.data() + first);
  });
  return out;
}

Matrix squared_row_norms(const QuantisedMatrix& w) {
  Matrix out = zeros({w.shape().rows, 1});
  w.each_panel([&](std::size_t first, const Matrix& panel) {
    const Matrix part = row_dots(panel, panel);
    std::copy_n(part.data(), part.size(), out.data() + first);
  });
  return out;
}

}  // namespace gradview
