#include "gradview/models/embedding.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

Gradient embedding_gradient(std::size_t vocabulary, const Matrix& delta,
                            std::span<const std::int32_t> ids, std::int32_t frozen) {
  std::vector<std::size_t> index;  // in order
  for (const std::int32_t id : ids) {
    if (id != frozen) index.push_back(static_cast<std::size_t>(id));
  }
  std::sort(index.begin(), index.end());
  index.erase(std::unique(index.begin(), index.end()), index.end());
  const std::size_t d = delta.shape()[1];
  if (index.empty()) return Gradient(Shape{vocabulary, d});
  std::vector<std::int32_t> places;
  for (const std::int32_t id : ids) {
    const auto at = std::lower_bound(index.begin(), index.end(), static_cast<std::size_t>(id));
    places.push_back(id == frozen ? -1 : static_cast<std::int32_t>(at - index.begin()));
  }
  Matrix g = zeros({index.size(), d});
  add_embedding_gradient(g, delta, places);
  return Gradient::rows(vocabulary, std::move(index), share(std::move(g)));
}

}  // namespace gradview
