// Tokens: what a transformer reads, packed: a row for every token that the mask keeps, sequence after
// sequence. Padding costs nothing then, on either side, and needs no mask.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Sequence {
  std::size_t first = 0, count = 0;  // its rows
  std::size_t silent = 0;            // so many at its start are attended to by none
};

struct Tokens {
  std::vector<std::int32_t> ids, positions, types;  // of every row; types: 0 where there are none
  std::vector<Sequence> sequences;
  std::size_t first_row = 0, first_sequence = 0;  // their numbers in the batch that this is part of

  std::size_t rows() const { return ids.size(); }
};

// From ids and mask of `batch` sequences padded to `length`: ids[b · length + p] stands at position p,
// padded or not, as transformers has it. `types` may be empty. With `keep_first` the first column is
// kept where the mask drops it, as a silent row: transformers' pooler reads it whatever the mask says.
// A sequence without a token is an error: std::invalid_argument.
Tokens pack(std::span<const std::int32_t> ids, std::span<const std::uint8_t> mask,
            std::size_t length, bool keep_first = false, std::span<const std::int32_t> types = {});

// Sequences first … first + count − 1; dropout gives them what it would in the whole.
Tokens part(const Tokens& all, std::size_t first, std::size_t count);

constexpr std::int32_t no_label = -100;  // of a row without one
// The label of every row: the id at the position after it, where its sequence has one.
std::vector<std::int32_t> next_ids(const Tokens& tokens);

}  // namespace gradview
