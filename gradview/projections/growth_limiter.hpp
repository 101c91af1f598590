// Norm-growth limiter: a step is at most γ times as long as the one before it.
//
//     ‖step_t‖ ≤ γ (‖step_{t−1}‖ + 10⁻⁸),   γ = 1.01
//
// Chen et al.: Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?, 2024,
// arXiv:2410.01623; APOLLO has it too. Lengths are those of steps before the learning rate. The
// small constant is that of both authors' codes. Unlike there, a step of length zero, or one whose
// length is not finite, passes and is not remembered: the next one would be held at 10⁻⁸.
#pragma once

#include <cmath>

#include "gradview/projections/projector.hpp"

namespace gradview {

class GrowthLimiter {
 public:
  explicit GrowthLimiter(double growth = 1.01) : growth_(growth) {}

  // What a step of this length is to be multiplied by, at most one; remembers the limited length.
  double limit(double length) {
    const double before = last_(0, 0);
    if (!(length > 0) || !std::isfinite(length)) return 1;
    const double allowed = growth_ * (before + 1e-8);
    const double factor = before > 0 && length > allowed ? allowed / length : 1;
    last_(0, 0) = static_cast<Real>(factor * length);
    return factor;
  }
  void fields(const Visit& visit) { visit("step_norm", last_, Role::frozen); }
  static constexpr std::size_t kStored = 1;  // numbers of state

 private:
  double growth_;
  Matrix last_ = zeros({1, 1});  // zero: no step yet
};

}  // namespace gradview
