// IDX, the format of MNIST and its kin: arrays of unsigned bytes, plain or inside gzip.
// Two zero bytes, the type 0x08, the rank, each dimension as a big-endian 32-bit number, the
// values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gradview {

struct IdxArray {
  std::vector<std::size_t> shape;    // 1 to 4 dimensions
  std::vector<std::uint8_t> values;  // row-major
};

// DataError on whatever is not one whole, intact array of at most 2^31 bytes. The memory used is
// bounded by what the file holds, not by what its header claims, and the reverse.
IdxArray read_idx(const std::string& path);

}  // namespace gradview
