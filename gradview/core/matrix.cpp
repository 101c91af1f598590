#include "gradview/core/matrix.hpp"

#include <algorithm>
#include <stdexcept>

namespace gradview {

std::string to_string(Shape shape) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.cols);
}

Matrix borrowed(Real* data, Shape shape) {
  Matrix a;
  if (shape.size() > 0)
    a.storage() = Matrix::storage_type(shape.size(), BufferAllocator<Real>(data));
  a.resize({shape.rows, shape.cols});  // which leaves memory of the right size alone
  return a;
}

Matrix zeros(Shape shape) {
  Matrix a = uninitialized(shape);
  std::fill(a.data(), a.data() + a.size(), Real{0});
  return a;
}

Matrix identity(std::size_t n) {
  Matrix a = zeros({n, n});
  for (std::size_t i = 0; i < n; ++i) a(i, i) = 1;
  return a;
}

Matrix matrix(std::initializer_list<std::initializer_list<double>> rows) {
  Matrix a = uninitialized({rows.size(), rows.begin()->size()});
  Real* out = a.data();
  for (const auto& row : rows) {
    if (row.size() != a.shape()[1]) throw std::invalid_argument("matrix: rows of unequal length");
    for (const double value : row) *out++ = static_cast<Real>(value);
  }
  return a;
}

void require_shape(const char* who, const char* what, Shape got, Shape expected) {
  if (got == expected) return;
  throw std::invalid_argument(std::string(who) + ": " + what + " is " + to_string(got) +
                              ", expected " + to_string(expected));
}

}  // namespace gradview
