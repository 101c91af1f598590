#include "gradview/optim/rules.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"

namespace gradview {

Moments Sgd::start(Shape shape) const {
  Moments moments;
  if (momentum > 0) moments.first = zeros(shape);
  moments.beta1 = momentum;
  return moments;
}

Moments Adam::start(Shape shape) const {
  Moments moments;
  if (beta1 > 0) moments.first = zeros(shape);
  moments.second = zeros(shape);
  moments.beta1 = beta1;
  moments.beta2 = beta2;
  moments.newest = 1 - beta1;
  return moments;
}

namespace {

// Blocks of numbers, over the threads.
template <class Work>
void over_blocks(std::size_t count, const Work& work) {
  parallel_entries(count, [&](std::size_t begin, std::size_t end) { work(begin, end - begin); });
}

}  // namespace

void Sgd::operator()(Matrix& g, Moments& moments, const Matrix&) const {
  const bool first = moments.step++ == 0;
  if (momentum == 0) return;
  over_blocks(g.size(), [&](std::size_t i, std::size_t count) {
    kernels().momentum(static_cast<Real>(momentum), first, nesterov, count, g.data() + i,
                       moments.first.data() + i);
  });
}

void Sgd::move(Matrix& w, const Matrix& g, Moments& moments, const Move& move) const {
  const bool first = moments.step++ == 0;
  over_blocks(g.size(), [&](std::size_t i, std::size_t count) {
    kernels().momentum_move(static_cast<Real>(momentum), first, nesterov, move, count, w.data() + i,
                            g.data() + i, momentum == 0 ? nullptr : moments.first.data() + i);
  });
}

AdamStep Adam::constants(std::size_t step) const {
  const auto t = static_cast<double>(step);
  const bool corrects = bias_correction == BiasCorrection::moments;
  return {.beta1 = static_cast<Real>(beta1),
          .beta2 = static_cast<Real>(beta2),
          .rest1 = static_cast<Real>(1 - beta1),
          .rest2 = static_cast<Real>(1 - beta2),
          .first_scale = static_cast<Real>(corrects ? 1 / (1 - std::pow(beta1, t)) : 1),
          .root_scale = static_cast<Real>(corrects ? 1 / std::sqrt(1 - std::pow(beta2, t)) : 1),
          .eps = static_cast<Real>(eps)};
}

void Adam::operator()(Matrix& g, Moments& moments, const Matrix&) const {
  const AdamStep step = constants(++moments.step);
  over_blocks(g.size(), [&](std::size_t i, std::size_t count) {
    kernels().adam(step, count, g.data() + i, beta1 == 0 ? nullptr : moments.first.data() + i,
                   moments.second.data() + i);
  });
}

void Adam::move(Matrix& w, const Matrix& g, Moments& moments, const Move& move) const {
  const AdamStep step = constants(++moments.step);
  over_blocks(g.size(), [&](std::size_t i, std::size_t count) {
    kernels().adam_move(step, move, count, w.data() + i, g.data() + i,
                        beta1 == 0 ? nullptr : moments.first.data() + i, moments.second.data() + i);
  });
}

double Adam::rate(std::size_t step) const {
  if (bias_correction != BiasCorrection::rate || step == 0) return 1;
  const auto t = static_cast<double>(step);
  return std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t));
}

Moments Adafactor::start(Shape shape) const {
  Moments moments;
  if (beta1 > 0) moments.first = zeros(shape);
  if (shape.rows > 1 || shape.cols == 1) moments.row = zeros({shape.rows, 1});
  if (shape.cols > 1) moments.column = zeros({1, shape.cols});
  moments.beta1 = beta1;
  moments.newest = 1 - beta1;
  return moments;
}

namespace {

double root_mean_square(const Matrix& a) {
  return std::sqrt(squared_norm(a) / static_cast<double>(a.size()));
}

struct Means {
  std::vector<double> row, column;  // of the squares
};

Means means_of_squares(const Matrix& g) {
  const auto [m, n] = shape_of(g);
  Means means{std::vector<double>(m), std::vector<double>(n)};
  for (std::size_t i = 0; i < m; ++i) {
    const Real* row = g.data() + i * n;
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double square = static_cast<double>(row[j]) * row[j];
      sum += square;
      means.column[j] += square;
    }
    means.row[i] = sum / static_cast<double>(n);
  }
  for (double& mean : means.column) mean /= static_cast<double>(m);
  return means;
}

void average(Matrix& a, double keep, const std::vector<double>& with, double add) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    a.data()[i] = static_cast<Real>(keep * a.data()[i] + (1 - keep) * (with[i] + add));
  }
}

// √(mean / a_i), or ones where there is no a.
std::vector<double> inverse_roots(const Matrix& a, std::size_t count, double mean) {
  std::vector<double> out(count, 1);
  for (std::size_t i = 0; i < a.size(); ++i) {
    out[i] = 1 / std::sqrt(static_cast<double>(a.data()[i]) / mean);
  }
  return out;
}

}  // namespace

void Adafactor::operator()(Matrix& g, Moments& moments, const Matrix& parameter) const {
  const auto [m, n] = shape_of(g);
  const double keep = 1 - std::pow(static_cast<double>(++moments.step), beta2_decay);  // β₂ₜ
  const bool adds = variant == Variant::transformers;
  const double small = eps1.value_or(adds ? 1e-30 : std::numeric_limits<Real>::epsilon());
  const double added = adds ? small : 0;
  const double largest = adds ? std::numeric_limits<double>::infinity() : 1 / small;
  const Means means = means_of_squares(g);
  average(moments.row, keep, means.row, added);
  average(moments.column, keep, means.column, added);
  const bool both = moments.row.size() > 0 && moments.column.size() > 0;
  double mean = both ? 0 : 1;
  for (std::size_t i = 0; i < m && both; ++i) mean += moments.row(i, 0) / static_cast<double>(m);
  if (both && !adds) mean = std::max(mean, small);
  const std::vector<double> row = inverse_roots(moments.row, m, mean);
  const std::vector<double> column = inverse_roots(moments.column, n, 1);
  Real* x = g.data();
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j, ++x) {
      *x = static_cast<Real>(*x * std::min(row[i] * column[j], largest));
    }
  }
  if (clip_threshold > 0) scale(g, 1 / std::max(1.0, root_mean_square(g) / clip_threshold));
  if (scale_parameter) scale(g, std::max(eps2, root_mean_square(parameter)));
  if (beta1 == 0) return;
  scale(moments.first, beta1);
  axpy(moments.first, 1 - beta1, g);
  g = moments.first;
}

}  // namespace gradview
