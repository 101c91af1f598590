#include "gradview/models/embedding.hpp"

#include <stdexcept>
#include <string>

#include "gradview/core/parallel.hpp"

namespace gradview {

void add_embedding(Matrix& y, const Matrix& table, std::span<const std::int32_t> ids,
                   const char* what) {
  const auto [vocabulary, d] = shape_of(table);
  require_shape("add_embedding", "y", shape_of(y), {ids.size(), d});
  for (const std::int32_t id : ids) {
    if (id >= 0 && static_cast<std::size_t>(id) < vocabulary) continue;
    throw std::invalid_argument(std::string(what) + " " + std::to_string(id) +
                                " is outside the model's " + std::to_string(vocabulary));
  }
  parallel_blocks(ids.size(), 64, [&, n = d](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const Real* from = table.data() + static_cast<std::size_t>(ids[t]) * n;
      Real* to = y.data() + t * n;
      for (std::size_t i = 0; i < n; ++i) to[i] += from[i];
    }
  });
}

void add_embedding_gradient(Matrix& g, const Matrix& delta, std::span<const std::int32_t> ids,
                            std::int32_t frozen) {
  const std::size_t d = g.shape()[1];
  require_shape("add_embedding_gradient", "δ", shape_of(delta), {ids.size(), d});
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] == frozen) continue;
    Real* to = g.data() + static_cast<std::size_t>(ids[t]) * d;
    const Real* from = delta.data() + t * d;
    for (std::size_t i = 0; i < d; ++i) to[i] += from[i];
  }
}

}  // namespace gradview
