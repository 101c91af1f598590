// Products of tiles: parts of arrays with rows some distance apart, on the calling thread. For code
// that splits its work itself, as attention does over sequences and heads; else see linalg.hpp.
#pragma once

#include <cstddef>

#include "gradview/core/real.hpp"

namespace gradview {

struct Tile {
  Real* data;
  std::size_t rows, cols, stride;  // entry (i, j) at data[i stride + j]
};

struct ConstTile {
  const Real* data;
  std::size_t rows, cols, stride;
  ConstTile(const Real* from, std::size_t m, std::size_t n, std::size_t apart)
      : data(from), rows(m), cols(n), stride(apart) {}
  ConstTile(const Tile& t) : data(t.data), rows(t.rows), cols(t.cols), stride(t.stride) {}
};

// c = beta c + s a b, and with the second or the first operand transposed. Throw
// std::invalid_argument where the shapes disagree.
void tile_matmul(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b);
void tile_matmul_nt(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b);
void tile_matmul_tn(const Tile& c, Real beta, Real s, const ConstTile& a, const ConstTile& b);

}  // namespace gradview
