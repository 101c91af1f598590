// The machine's own limits: plain loops over whole matrices, split over our threads, and sgemm.
#pragma once

#include <string>

#include "gradview/core/matrix.hpp"

namespace gradview::benchmarks {

std::string instruction_set();  // "AVX-512", "AVX2" …: what our kernels run with here

void read_pass(const Real* a, std::size_t count);  // 4 bytes per entry
void in_place_pass(Matrix& a);                     // a *= c: 8 bytes per entry

struct AdamStream {  // reads g, m, v, w and writes m, v, w: 28 bytes per entry, no square root
  explicit AdamStream(Shape shape);
  void pass();
  Matrix g, m, v, w;
};

// c = alpha op(a) op(b) + beta c through OpenBLAS at one thread per piece, one piece per thread of
// the longer side of c.
struct Operand {
  const Real* data;
  Shape shape;
  bool transposed = false;
};
inline Operand plain(const Matrix& a) { return {a.data(), shape_of(a)}; }
inline Operand transposed(const Matrix& a) { return {a.data(), shape_of(a), true}; }
void sgemm(std::size_t threads, double alpha, Operand a, Operand b, double beta, Real* c);

}  // namespace gradview::benchmarks
