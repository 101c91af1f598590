// Rotary position embedding: the pairs (x_i, x_{i+w/2}) of every head of width w, turned by
// p θ^(−2i/w) / factor at position p.
//
// Su, Lu, Pan, Murtadha, Wen, Liu: RoFormer: enhanced transformer with rotary position embedding
// (2021, arXiv:2104.09864), in the half-split layout of Llama. factor: linear position interpolation;
// Chen, Wong, Chen, Tian: Extending context window of large language models via positional
// interpolation (2023, arXiv:2306.15595). Angles are computed in double; transformers' are float's.
#pragma once

#include <cstdint>
#include <span>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Rope {
  double theta = 10000;
  double factor = 1;

  struct Table {
    Matrix cosines, sines;  // positions x w/2
  };
  Table table(std::size_t positions, std::size_t width) const;
};

// Turns columns [first, first + heads · w) of every row t by the angles of positions[t], or back.
void rotate(Matrix& x, std::size_t first, std::size_t heads, const Rope::Table& table,
            std::span<const std::int32_t> positions, bool back = false);

}  // namespace gradview
