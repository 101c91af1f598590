#include "gradview/models/rope.hpp"

#include <cmath>
#include <stdexcept>

#include "gradview/core/parallel.hpp"

namespace gradview {

Rope::Table Rope::table(std::size_t positions, std::size_t width) const {
  const std::size_t half = width / 2;
  Table made{uninitialized({positions, half}), uninitialized({positions, half})};
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)) / factor;
    for (std::size_t p = 0; p < positions; ++p) {
      made.cosines(p, i) = static_cast<Real>(std::cos(frequency * static_cast<double>(p)));
      made.sines(p, i) = static_cast<Real>(std::sin(frequency * static_cast<double>(p)));
    }
  }
  return made;
}

void rotate(Matrix& x, std::size_t first, std::size_t heads, const Rope::Table& table,
            std::span<const std::int32_t> positions, bool back) {
  const auto [tokens, columns] = shape_of(x);
  const std::size_t half = table.cosines.shape()[1];
  if (positions.size() != tokens || first + 2 * half * heads > columns) {
    throw std::invalid_argument(
        "rotate: " + std::to_string(heads) + " heads of width " + std::to_string(2 * half) +
        " and " + std::to_string(positions.size()) + " positions for " + to_string(shape_of(x)));
  }
  parallel_blocks(tokens, 64, [&, n = columns](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const auto p = static_cast<std::size_t>(positions[t]);
      const Real *c = table.cosines.data() + p * half, *s = table.sines.data() + p * half;
      const Real sign = back ? -1 : 1;
      for (std::size_t head = 0; head < heads; ++head) {
        Real* low = x.data() + t * n + first + 2 * half * head;
        Real* high = low + half;
        for (std::size_t i = 0; i < half; ++i) {
          const Real a = low[i], b = high[i], turn = sign * s[i];
          low[i] = a * c[i] - b * turn;
          high[i] = b * c[i] + a * turn;
        }
      }
    }
  });
}

}  // namespace gradview
