#include "gradview/core/tile.hpp"

#include <cblas.h>

#include "gradview/core/matrix.hpp"

namespace gradview {
namespace {

void gemm(const char* who, const Tile& c, Real beta, Real s, const ConstTile& a, bool transpose_a,
          const ConstTile& b, bool transpose_b) {
  const Shape left = transpose_a ? Shape{a.cols, a.rows} : Shape{a.rows, a.cols};
  const Shape right = transpose_b ? Shape{b.cols, b.rows} : Shape{b.rows, b.cols};
  require_shape(who, "b", right, {left.cols, right.cols});
  require_shape(who, "c", {c.rows, c.cols}, {left.rows, right.cols});
  if (left.rows == 0 || right.cols == 0) return;
#ifdef GRADVIEW_DOUBLE
  cblas_dgemm(
#else
  cblas_sgemm(
#endif
      CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
      transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(left.rows),
      static_cast<int>(right.cols), static_cast<int>(left.cols), s, a.data,
      static_cast<int>(a.stride), b.data, static_cast<int>(b.stride), beta, c.data,
      static_cast<int>(c.stride));
}

}  // namespace

void tile_matmul(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b) {
  gemm("tile_matmul", c, beta, s, a, false, b, false);
}

void tile_matmul_nt(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b) {
  gemm("tile_matmul_nt", c, beta, s, a, false, b, true);
}

void tile_matmul_tn(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b) {
  gemm("tile_matmul_tn", c, beta, s, a, true, b, false);
}

}  // namespace gradview
