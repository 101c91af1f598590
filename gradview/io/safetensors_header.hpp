// The JSON header of a safetensors file: read with every rule of the format checked, and written.
// {"__metadata__": {string: string}, "name": {"dtype": …, "shape": […], "data_offsets": [begin,
// end]}}
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gradview/io/safetensors.hpp"

namespace gradview {

constexpr std::uint64_t largest_safetensors_header = 100'000'000;  // bytes; the format's own limit

struct SafetensorsHeader {
  std::vector<Tensor> tensors;  // in order of name
  Metadata metadata;
};

// `data_size` is what the file holds after the header, in bytes. DataError "path: …".
SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view json,
                                           std::uint64_t data_size);
// With its length in front, padded with spaces to a multiple of 8. std::invalid_argument.
std::string format_safetensors_header(const SafetensorsHeader& header);

// Bits in `shape`, nothing where that is no 64-bit number.
std::optional<std::uint64_t> bits_in(const std::vector<std::size_t>& shape,
                                     std::uint64_t bits_each);

// 'name' for a message of one short line, whatever the name holds.
std::string quoted_name(std::string_view name);

}  // namespace gradview
