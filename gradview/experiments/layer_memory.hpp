// The memory of one linear layer with an adapter, W in float or in 4 bits: what W takes, and what a
// forward and a backward pass take on top, by the kernel's count of the pages of a process of its own.
#pragma once

#include <optional>

#include "gradview/core/quantised.hpp"

namespace gradview {

struct LayerMemory {
  double held;  // bytes of W
  double pass;  // bytes above what was there before the pass; NaN where the kernel does not tell
};

// Call it before other threads run. Throws std::runtime_error where there can be no process.
LayerMemory layer_memory(Shape shape, std::optional<FourBit> type);

}  // namespace gradview
