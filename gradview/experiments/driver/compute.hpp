// --compute float | bf16: what a model's products with W are computed in.
#pragma once

#include <string>

#include "gradview/core/bf16.hpp"
#include "gradview/experiments/driver/flags.hpp"

namespace gradview {

struct ComputeFlag {
  std::string wanted = "float";
  void declare(Flags& flags);
  // What is computed in: float where bfloat16 does not run here, of which a line on stderr tells.
  // Throws std::invalid_argument on bf16 in the double build.
  Compute resolve(const std::string& program) const;
  std::string record() const;  // for metadata.json: "bf16, oneDNN 2.6.3, AMX"
};

}  // namespace gradview
