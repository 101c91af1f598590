#include "gradview/models/norm.hpp"

#include <cmath>
#include <utility>

#include "gradview/core/parallel.hpp"
#include "gradview/models/rows.hpp"

namespace gradview {
namespace {

constexpr std::size_t kRows = 32;      // handed out at once
constexpr std::size_t kSumRows = 256;  // summed one after the other; the sums then in order

}  // namespace

void Norm::check(const Matrix& x) const {
  const Shape row{1, x.shape()[1]};
  require_shape("Norm", "γ", shape_of(*scale), row);
  if (shift) require_shape("Norm", "β", shape_of(*shift), row);
}

void Norm::normalize(const Real* x, Real* to, Real& rho, std::size_t d) const {
  const auto share = 1 / static_cast<Real>(d);
  Real mean = 0;
  if (kind == NormKind::layer) mean = lane_sum(d, [=](std::size_t i) { return x[i]; }) * share;
  const Real squares =
      lane_sum(d, [=](std::size_t i) { return (x[i] - mean) * (x[i] - mean); }) * share;
  rho = 1 / std::sqrt(squares + static_cast<Real>(eps));
  for (std::size_t i = 0; i < d; ++i) to[i] = (x[i] - mean) * rho;
}

void Norm::affine(const Real* x, Real* y, std::size_t d) const {
  const Real* gamma = scale->data();
  if (shift) {
    const Real* beta = shift->data();
    for (std::size_t i = 0; i < d; ++i) y[i] = gamma[i] * x[i] + beta[i];
  } else {
    for (std::size_t i = 0; i < d; ++i) y[i] = gamma[i] * x[i];
  }
}

Matrix Norm::forward(const Matrix& x, Kept* kept) const {
  check(x);
  const auto [tokens, d] = shape_of(x);
  Matrix y = uninitialized({tokens, d});
  if (kept) {
    kept->x = uninitialized({tokens, d});
    kept->rho.resize(tokens);
  }
  parallel_blocks(tokens, kRows, [&, d = d](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      Real* to = (kept ? kept->x.data() : y.data()) + t * d;
      Real unused;
      normalize(x.data() + t * d, to, kept ? kept->rho[t] : unused, d);
      affine(to, y.data() + t * d, d);
    }
  });
  return y;
}

Matrix Norm::forward(Matrix&& x, Kept* kept) const {
  check(x);
  const auto [tokens, d] = shape_of(x);
  Matrix y;
  if (kept) {
    y = uninitialized({tokens, d});
    kept->rho.resize(tokens);
  }
  Real* out = kept ? y.data() : x.data();
  parallel_blocks(tokens, kRows, [&, d = d](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      Real* row = x.data() + t * d;
      Real unused;
      normalize(row, row, kept ? kept->rho[t] : unused, d);
      affine(row, out + t * d, d);
    }
  });
  if (!kept) return std::move(x);
  kept->x = std::move(x);
  return y;
}

Matrix Norm::output(const Kept& kept) const {
  check(kept.x);
  const auto [tokens, d] = shape_of(kept.x);
  Matrix y = uninitialized({tokens, d});
  parallel_blocks(tokens, kRows, [&, d = d](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) affine(kept.x.data() + t * d, y.data() + t * d, d);
  });
  return y;
}

Matrix Norm::input_gradient(const Kept& kept, Matrix delta) const {
  check(delta);
  require_shape("Norm", "δ", shape_of(delta), shape_of(kept.x));
  const auto [tokens, d] = shape_of(delta);
  const auto share = 1 / static_cast<Real>(d);
  const Real* gamma = scale->data();
  parallel_blocks(tokens, kRows, [&, d = d](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const Real* x = kept.x.data() + t * d;
      Real* g = delta.data() + t * d;
      for (std::size_t i = 0; i < d; ++i) g[i] *= gamma[i];
      const Real along = lane_sum(d, [=](std::size_t i) { return g[i] * x[i]; }) * share;
      Real mean = 0;
      if (kind == NormKind::layer) mean = lane_sum(d, [=](std::size_t i) { return g[i]; }) * share;
      const Real rho = kept.rho[t];
      for (std::size_t i = 0; i < d; ++i) g[i] = rho * (g[i] - mean - along * x[i]);
    }
  });
  return delta;
}

Matrix Norm::scale_gradient(const Kept& kept, const Matrix& delta) {
  require_shape("Norm", "δ", shape_of(delta), shape_of(kept.x));
  const auto [tokens, d] = shape_of(delta);
  Matrix parts = zeros({(tokens + kSumRows - 1) / kSumRows, d});
  parallel_blocks(tokens, kSumRows, [&, d = d](std::size_t begin, std::size_t end) {
    Real* to = parts.data() + begin / kSumRows * d;
    for (std::size_t t = begin; t < end; ++t) {
      const Real *x = kept.x.data() + t * d, *g = delta.data() + t * d;
      for (std::size_t i = 0; i < d; ++i) to[i] += g[i] * x[i];
    }
  });
  Matrix total = zeros({1, d});
  for (std::size_t part = 0; part < parts.shape()[0]; ++part) {
    for (std::size_t i = 0; i < d; ++i) total.data()[i] += parts.data()[part * d + i];
  }
  return total;
}

}  // namespace gradview
