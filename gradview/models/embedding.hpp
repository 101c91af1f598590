// Embedding: rows of a table by their ids.     table: V x d, ids: N, y: N x d
#pragma once

#include <cstdint>
#include <span>

#include "gradview/core/gradient.hpp"

namespace gradview {

// y += table[ids]. Throws std::invalid_argument, naming `what`, on an id outside the table.
void add_embedding(Matrix& y, const Matrix& table, std::span<const std::int32_t> ids,
                   const char* what);

// g += Σ_t e_{id_t} δ_t (V x d), in the order of the rows; `frozen`: an id that is left out.
void add_embedding_gradient(Matrix& g, const Matrix& delta, std::span<const std::int32_t> ids,
                            std::int32_t frozen = -1);
// The same as a gradient of the V x d table that has only the rows that `ids` name.
Gradient embedding_gradient(std::size_t vocabulary, const Matrix& delta,
                            std::span<const std::int32_t> ids, std::int32_t frozen = -1);

}  // namespace gradview
