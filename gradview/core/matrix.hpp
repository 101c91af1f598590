// Matrix: a dense row-major array of Real, and the few ways to make one.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>

#include "gradview/core/buffer.hpp"
#include "gradview/core/real.hpp"
#include "gradview/core/xtensor.hpp"

namespace gradview {

using Matrix = xt::xtensor<Real, 2, xt::layout_type::row_major, BufferAllocator<Real>>;

struct Shape {
  std::size_t rows = 0, cols = 0;
  std::size_t size() const { return rows * cols; }
  bool operator==(const Shape&) const = default;
};

inline Shape shape_of(const Matrix& a) { return {a.shape()[0], a.shape()[1]}; }
std::string to_string(Shape shape);  // "256 x 784"

// Entries are left uninitialised: for results that a kernel overwrites whole.
inline Matrix uninitialized(Shape s) { return Matrix::from_shape({s.rows, s.cols}); }
// On memory of somebody else's, row after row, which must outlive it. Assigning a copy of its shape
// writes there, as all that changes entries does; moving another matrix into it takes that one's memory
// instead. A copy of it has memory of its own.
Matrix borrowed(Real* data, Shape shape);
Matrix zeros(Shape shape);
Matrix identity(std::size_t n);
Matrix matrix(std::initializer_list<std::initializer_list<double>> rows);

// Throws std::invalid_argument "who: what is 3 x 4, expected 3 x 5" where the shapes differ.
void require_shape(const char* who, const char* what, Shape got, Shape expected);

}  // namespace gradview
