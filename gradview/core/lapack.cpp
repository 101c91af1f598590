// The only file that includes xtensor-blas: it is slow to compile, and its headers and <cblas.h>
// exclude each other.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <xtensor-blas/xlinalg.hpp>

#include "gradview/core/linalg.hpp"

namespace gradview {
namespace {

void require_finite(const char* who, const Matrix& a) {
  if (!all_finite(a)) {
    throw std::domain_error(std::string(who) + ": the " + to_string(shape_of(a)) +
                            " matrix holds values that are not finite");
  }
}

template <class Expression>
Matrix row_major(const Expression& a) {  // LAPACK hands back column-major arrays
  Matrix out = uninitialized({a.shape()[0], a.shape()[1]});
  for (std::size_t i = 0; i < a.shape()[0]; ++i) {
    for (std::size_t j = 0; j < a.shape()[1]; ++j) out(i, j) = a(i, j);
  }
  return out;
}

}  // namespace

void fix_signs(Svd& s) {
  for (std::size_t k = 0; k < s.singular.size(); ++k) {
    std::size_t largest = 0;
    for (std::size_t i = 1; i < s.u.shape()[0]; ++i) {
      if (std::abs(s.u(i, k)) > std::abs(s.u(largest, k))) largest = i;
    }
    if (s.u(largest, k) >= 0) continue;
    for (std::size_t i = 0; i < s.u.shape()[0]; ++i) s.u(i, k) = -s.u(i, k);
    for (std::size_t j = 0; j < s.vt.shape()[1]; ++j) s.vt(k, j) = -s.vt(k, j);
  }
}

Svd svd(const Matrix& a) {
  require_finite("svd", a);
  const auto [u, s, vt] = xt::linalg::svd(a, false);
  Svd out{row_major(u), {s.begin(), s.end()}, row_major(vt)};
  fix_signs(out);
  return out;
}

Matrix solve(const Matrix& a, const Matrix& b) {
  require_finite("solve", a);
  require_finite("solve", b);
  if (a.shape()[0] != a.shape()[1]) {
    throw std::invalid_argument("solve: a is " + to_string(shape_of(a)) + ", expected a square");
  }
  require_shape("solve", "b", shape_of(b), {a.shape()[0], b.shape()[1]});
  try {
    return row_major(xt::linalg::solve(a, b));
  } catch (const std::runtime_error&) {
    throw std::domain_error("solve: the " + to_string(shape_of(a)) + " matrix is singular");
  }
}

SymmetricEigen symmetric_eigen(const Matrix& a) {
  require_finite("symmetric_eigen", a);
  if (a.shape()[0] != a.shape()[1]) {
    throw std::invalid_argument("symmetric_eigen: a is " + to_string(shape_of(a)) +
                                ", expected a square");
  }
  const auto [values, q] = xt::linalg::eigh(a);
  return {row_major(q), {values.begin(), values.end()}};
}

Matrix orthonormal_rows(const Matrix& a) {
  require_finite("orthonormal_rows", a);
  const auto [r, n] = shape_of(a);
  if (r > n) {
    throw std::invalid_argument("orthonormal_rows: " + std::to_string(r) + " rows of length " +
                                std::to_string(n) + " cannot be orthonormal");
  }
  const auto [q, upper] = xt::linalg::qr(transpose(a), xt::linalg::qrmode::reduced);
  Matrix out = uninitialized({r, n});
  for (std::size_t k = 0; k < r; ++k) {
    const Real sign = upper(k, k) < 0 ? Real{-1} : Real{1};
    for (std::size_t j = 0; j < n; ++j) out(k, j) = sign * q(j, k);
  }
  return out;
}

}  // namespace gradview
