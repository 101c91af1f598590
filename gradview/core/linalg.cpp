#include "gradview/core/linalg.hpp"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/parallel.hpp"

// Present in OpenBLAS only; another CBLAS links as well.
extern "C" {
void openblas_set_num_threads(int) __attribute__((weak));
int openblas_get_num_threads(void) __attribute__((weak));
char* openblas_get_corename(void) __attribute__((weak));
char* openblas_get_config(void) __attribute__((weak));
}

namespace gradview {
namespace {

// BLAS itself runs on one thread: parallelism is over runs, or over the pieces below.
const bool kSingleThreadedBlas = [] {
  if (openblas_set_num_threads) openblas_set_num_threads(1);
  return true;
}();

struct Operand {
  const Matrix& matrix;
  bool transposed;
  Shape shape() const {
    const Shape s = shape_of(matrix);
    return transposed ? Shape{s.cols, s.rows} : s;
  }
};

// C is computed in pieces of its rows or its columns, whichever are more: BLAS packs both operands of
// every call, so that pieces should be large. Their number depends on the shape alone, so that the
// bits do not depend on the number of threads; it is even, so that two threads share it.
constexpr std::size_t kSmallestSplit = std::size_t{1} << 22;  // multiply-adds; fewer in one call
constexpr std::size_t kSmallestHalf = 192;                    // of two pieces
constexpr std::size_t kSmallestPiece = 1024;                  // of more
constexpr std::size_t kMostPieces = 8;

std::size_t pieces(std::size_t size) {
  if (size < 2 * kSmallestHalf) return 1;
  std::size_t count = 2;
  while (count < kMostPieces && size >= 2 * count * kSmallestPiece) count *= 2;
  return count;
}

void gemm(const char* who, double alpha, Operand a, Operand b, double beta, Matrix& c) {
  const std::size_t m = a.shape().rows;
  const std::size_t k = a.shape().cols;
  const std::size_t n = b.shape().cols;
  if (b.shape().rows != k) {
    throw std::invalid_argument(std::string(who) + ": the inner sizes of " + to_string(a.shape()) +
                                " and " + to_string(b.shape()) + " differ");
  }
  require_shape(who, "the result", shape_of(c), {m, n});
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (beta == 0) std::fill(c.data(), c.data() + c.size(), Real{0});
    return;
  }
  const auto lda = a.matrix.shape()[1];
  const auto ldb = b.matrix.shape()[1];
  const auto ta = a.transposed ? CblasTrans : CblasNoTrans;
  const auto tb = b.transposed ? CblasTrans : CblasNoTrans;
  const auto piece = [&](std::size_t row, std::size_t col, std::size_t row_count,
                         std::size_t col_count) {
#ifdef GRADVIEW_DOUBLE
    cblas_dgemm(
#else
    cblas_sgemm(
#endif
        CblasRowMajor, ta, tb, static_cast<int>(row_count), static_cast<int>(col_count),
        static_cast<int>(k), static_cast<Real>(alpha),
        a.matrix.data() + (a.transposed ? row : row * lda), static_cast<int>(lda),
        b.matrix.data() + (b.transposed ? col * ldb : col), static_cast<int>(ldb),
        static_cast<Real>(beta), c.data() + row * n + col, static_cast<int>(n));
  };
  const std::size_t count = m * n * k < kSmallestSplit ? 1 : pieces(std::max(m, n));
  const std::size_t longest = (std::max(m, n) + count - 1) / count;
  parallel_blocks(std::max(m, n), longest, [&](std::size_t begin, std::size_t end) {
    m >= n ? piece(begin, 0, end - begin, n) : piece(0, begin, m, end - begin);
  });
}

}  // namespace

Matrix matmul(const Matrix& a, const Matrix& b) {
  Matrix c = uninitialized({a.shape()[0], b.shape()[1]});
  gemm("matmul", 1, {a, false}, {b, false}, 0, c);
  return c;
}

Matrix matmul_nt(const Matrix& a, const Matrix& b) {
  Matrix c = uninitialized({a.shape()[0], b.shape()[0]});
  gemm("matmul_nt", 1, {a, false}, {b, true}, 0, c);
  return c;
}

Matrix matmul_tn(const Matrix& a, const Matrix& b) {
  Matrix c = uninitialized({a.shape()[1], b.shape()[1]});
  gemm("matmul_tn", 1, {a, true}, {b, false}, 0, c);
  return c;
}

void add_matmul(Matrix& c, double s, const Matrix& a, const Matrix& b) {
  gemm("add_matmul", s, {a, false}, {b, false}, 1, c);
}

void add_matmul_nt(Matrix& c, double s, const Matrix& a, const Matrix& b) {
  gemm("add_matmul_nt", s, {a, false}, {b, true}, 1, c);
}

void add_matmul_tn(Matrix& c, double s, const Matrix& a, const Matrix& b) {
  gemm("add_matmul_tn", s, {a, true}, {b, false}, 1, c);
}

Matrix transpose(const Matrix& a) {
  const auto [m, n] = shape_of(a);
  Matrix t = uninitialized({n, m});
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) t.data()[j * m + i] = a.data()[i * n + j];
  }
  return t;
}

Matrix copy_of(const Matrix& a) {
  Matrix copy = uninitialized(shape_of(a));
  const Real* from = a.data();
  Real* to = copy.data();
  parallel_entries(a.size(), [=](std::size_t begin, std::size_t end) {
    std::copy(from + begin, from + end, to + begin);
  });
  return copy;
}

Matrix rows(const Matrix& a, std::size_t first, std::size_t count) {
  const auto [m, n] = shape_of(a);
  require_shape("rows", "a", {std::min(m, first + count), n}, {first + count, n});
  Matrix out = uninitialized({count, n});
  std::copy_n(a.data() + first * n, count * n, out.data());
  return out;
}

Matrix columns(const Matrix& a, std::size_t first, std::size_t count) {
  const auto [m, n] = shape_of(a);
  require_shape("columns", "a", {m, std::min(n, first + count)}, {m, first + count});
  Matrix out = uninitialized({m, count});
  for (std::size_t i = 0; i < m; ++i) {
    std::copy_n(a.data() + i * n + first, count, out.data() + i * count);
  }
  return out;
}

Matrix stacked(const Matrix& top, const Matrix& bottom) {
  const auto [m, n] = shape_of(top);
  require_shape("stacked", "bottom", {bottom.shape()[0], bottom.shape()[1]},
                {bottom.shape()[0], n});
  Matrix out = uninitialized({m + bottom.shape()[0], n});
  std::copy_n(top.data(), top.size(), out.data());
  std::copy_n(bottom.data(), bottom.size(), out.data() + top.size());
  return out;
}

Matrix side_by_side(const Matrix& left, const Matrix& right) {
  const auto [m, k] = shape_of(left);
  const std::size_t n = right.shape()[1];
  require_shape("side_by_side", "right", shape_of(right), {m, n});
  Matrix out = uninitialized({m, k + n});
  for (std::size_t i = 0; i < m; ++i) {
    std::copy_n(left.data() + i * k, k, out.data() + i * (k + n));
    std::copy_n(right.data() + i * n, n, out.data() + i * (k + n) + k);
  }
  return out;
}

void scale(Matrix& y, double s) {
  const auto factor = static_cast<Real>(s);
  Real* data = y.data();
  parallel_entries(y.size(), [=](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) data[i] *= factor;
  });
}

void axpy(Matrix& y, double s, const Matrix& x) {
  require_shape("axpy", "x", shape_of(x), shape_of(y));
  const auto factor = static_cast<Real>(s);
  Real* out = y.data();
  const Real* in = x.data();
  parallel_entries(y.size(), [=](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) out[i] += factor * in[i];
  });
}

Matrix difference(const Matrix& a, const Matrix& b) {
  Matrix c = a;
  axpy(c, -1, b);
  return c;
}

double dot(const Matrix& a, const Matrix& b) {
  require_shape("dot", "b", shape_of(b), shape_of(a));
  constexpr std::size_t kLanes = 8;
  double lanes[kLanes] = {};
  const std::size_t whole = a.size() / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(a.data()[i + lane]) * b.data()[i + lane];
    }
  }
  double sum = 0;
  for (std::size_t i = whole; i < a.size(); ++i) {
    sum += static_cast<double>(a.data()[i]) * b.data()[i];
  }
  for (const double lane : lanes) sum += lane;
  return sum;
}

double squared_norm(const Matrix& a) { return dot(a, a); }

bool all_finite(const Matrix& a) {
  return std::all_of(a.data(), a.data() + a.size(), [](Real x) { return std::isfinite(x); });
}

void add_kronecker(Matrix& w, double s, const Matrix& c, const Matrix& b) {
  const auto [m1, n1] = shape_of(c);
  const auto [m2, n2] = shape_of(b);
  require_shape("add_kronecker", "w", shape_of(w), {m1 * m2, n1 * n2});
  for (std::size_t row = 0; row < m1 * m2; ++row) {
    const Real* from = b.data() + row % m2 * n2;
    Real* to = w.data() + row * n1 * n2;
    for (std::size_t j = 0; j < n1; ++j, to += n2) {
      const auto factor = static_cast<Real>(s * c(row / m2, j));
      for (std::size_t k = 0; k < n2; ++k) to[k] += factor * from[k];
    }
  }
}

Matrix block_dots(const Matrix& a, const Matrix& b) {
  const auto [m2, n2] = shape_of(b);
  const auto [m, n] = shape_of(a);
  require_shape("block_dots", "a", {m, n}, {m / m2 * m2, n / n2 * n2});
  const std::size_t n1 = n / n2;
  std::vector<double> sums(m / m2 * n1);
  for (std::size_t row = 0; row < m; ++row) {
    const Real* in = a.data() + row * n;
    const Real* with = b.data() + row % m2 * n2;
    for (std::size_t j = 0; j < n1; ++j, in += n2) {
      double sum = 0;
      for (std::size_t k = 0; k < n2; ++k) sum += static_cast<double>(in[k]) * with[k];
      sums[row / m2 * n1 + j] += sum;
    }
  }
  Matrix out = uninitialized({m / m2, n1});
  std::transform(sums.begin(), sums.end(), out.data(), [](double x) { return Real(x); });
  return out;
}

Matrix block_sum(const Matrix& a, const Matrix& c) {
  const auto [m1, n1] = shape_of(c);
  const auto [m, n] = shape_of(a);
  require_shape("block_sum", "a", {m, n}, {m / m1 * m1, n / n1 * n1});
  const std::size_t m2 = m / m1;
  const std::size_t n2 = n / n1;
  Matrix out = zeros({m2, n2});
  for (std::size_t row = 0; row < m; ++row) {
    const Real* in = a.data() + row * n;
    Real* sum = out.data() + row % m2 * n2;
    for (std::size_t j = 0; j < n1; ++j, in += n2) {
      const Real factor = c(row / m2, j);
      for (std::size_t k = 0; k < n2; ++k) sum[k] += factor * in[k];
    }
  }
  return out;
}

Matrix row_dots(const Matrix& a, const Matrix& b) {
  require_shape("row_dots", "b", shape_of(b), shape_of(a));
  const auto [m, n] = shape_of(a);
  Matrix out = uninitialized({m, 1});
  for (std::size_t i = 0; i < m; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) {
      sum += static_cast<double>(a.data()[i * n + j]) * b.data()[i * n + j];
    }
    out.data()[i] = static_cast<Real>(sum);
  }
  return out;
}

std::string blas_description() {
  if (!openblas_get_config) return "a BLAS other than OpenBLAS";
  return std::string(openblas_get_config()) + ", kernel " + openblas_get_corename() + ", " +
         std::to_string(openblas_get_num_threads()) + " thread";
}

}  // namespace gradview
