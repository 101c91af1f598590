// Where fixed frames of ones see nothing: before a softmax 1ᵀG = 0, behind inputs whose entries sum
// to zero G 1 = 0. Measured on the gradient of a small network.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gradview {

struct Null {
  std::string weight, inputs, method, factor;
  std::size_t rank;       // directions that the factor has
  std::size_t dead;       // of them without gradient, to rounding
  std::size_t predicted;  // likewise, from theory
  double weakest;         // smallest singular value of the factor's gradient over ‖G‖
};

std::vector<Null> measure_nulls(std::uint64_t seed);

}  // namespace gradview
