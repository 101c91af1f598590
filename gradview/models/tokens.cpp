#include "gradview/models/tokens.hpp"

#include <stdexcept>
#include <string>

namespace gradview {

Tokens pack(std::span<const std::int32_t> ids, std::span<const std::uint8_t> mask,
            std::size_t length, bool keep_first, std::span<const std::int32_t> types) {
  if (length == 0 || ids.size() % length != 0 || mask.size() != ids.size() ||
      (!types.empty() && types.size() != ids.size())) {
    throw std::invalid_argument("pack: " + std::to_string(ids.size()) + " ids, " +
                                std::to_string(mask.size()) + " of a mask and " +
                                std::to_string(types.size()) + " types for sequences of " +
                                std::to_string(length));
  }
  Tokens tokens;
  for (std::size_t b = 0; b < ids.size() / length; ++b) {
    Sequence sequence{tokens.rows(), 0, 0};
    for (std::size_t p = 0; p < length; ++p) {
      const std::size_t at = b * length + p;
      const bool silent = keep_first && p == 0 && !mask[at];
      if (!mask[at] && !silent) continue;
      sequence.silent += silent;
      tokens.ids.push_back(ids[at]);
      tokens.positions.push_back(static_cast<std::int32_t>(p));
      tokens.types.push_back(types.empty() ? 0 : types[at]);
    }
    sequence.count = tokens.rows() - sequence.first;
    if (sequence.count == sequence.silent) {
      throw std::invalid_argument("pack: the mask of sequence " + std::to_string(b) +
                                  " keeps no token");
    }
    tokens.sequences.push_back(sequence);
  }
  return tokens;
}

Tokens part(const Tokens& all, std::size_t first, std::size_t count) {
  if (first + count > all.sequences.size() || count == 0) {
    throw std::invalid_argument("part: " + std::to_string(count) + " sequences from " +
                                std::to_string(first) + ", there are " +
                                std::to_string(all.sequences.size()));
  }
  const std::size_t begin = all.sequences[first].first;
  const Sequence& last = all.sequences[first + count - 1];
  const auto cut = [&](const std::vector<std::int32_t>& from) {
    return std::vector<std::int32_t>(
        from.begin() + static_cast<std::ptrdiff_t>(begin),
        from.begin() + static_cast<std::ptrdiff_t>(last.first + last.count));
  };
  Tokens some{cut(all.ids), cut(all.positions),    cut(all.types),
              {},           all.first_row + begin, all.first_sequence + first};
  for (std::size_t i = first; i < first + count; ++i) {
    some.sequences.push_back(all.sequences[i]);
    some.sequences.back().first -= begin;
  }
  return some;
}

std::vector<std::int32_t> next_ids(const Tokens& tokens) {
  std::vector<std::int32_t> labels(tokens.rows(), no_label);
  for (const Sequence& sequence : tokens.sequences) {
    for (std::size_t t = sequence.first; t + 1 < sequence.first + sequence.count; ++t) {
      if (tokens.positions[t + 1] == tokens.positions[t] + 1) labels[t] = tokens.ids[t + 1];
    }
  }
  return labels;
}

}  // namespace gradview
