#include "gradview/experiments/driver/compute.hpp"

#include <fmt/format.h>

#include <stdexcept>

namespace gradview {

void ComputeFlag::declare(Flags& flags) {
  flags.choice(
      "compute", wanted, {"float", "bf16"},
      "of forward and delta; bf16 where it can be had, with weights, gradients and moments "
      "in float");
}

Compute ComputeFlag::resolve(const std::string& program) const {
  if (wanted == "float") return Compute::real;
  if (sizeof(Real) != sizeof(float)) {
    throw std::invalid_argument("--compute bf16 is for programs that compute in float; " + program +
                                " computes in double");
  }
  if (bf16_runs_here()) return Compute::bf16;
  fmt::print(stderr, "{}: note: --compute bf16 cannot be had, so float is computed in: {}\n",
             program, bf16_description());
  return Compute::real;
}

std::string ComputeFlag::record() const {
  if (wanted == "float") return sizeof(Real) == sizeof(float) ? "float" : "double";
  return bf16_runs_here() ? "bf16, " + bf16_description()
                          : "float; bf16 was asked for: " + bf16_description();
}

}  // namespace gradview
