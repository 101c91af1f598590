// Learning-rate schedules: the factor on the base rate at step t of T, with linear warm-up over the
// first W steps.
//
//     constant 1     linear 1 − (1 − F) p     cosine F + (1 − F)(1 + cos πp)/2;   p = (t − W)/(T −
//     W)
#pragma once

#include <functional>
#include <string>

namespace gradview {

using Schedule = std::function<double(std::size_t step, std::size_t steps)>;

inline double constant_schedule(std::size_t, std::size_t) { return 1; }

// From "cosine", "linear:warmup=10,final=0.1", "constant:warmup=5"; throws std::invalid_argument.
Schedule make_schedule(const std::string& spec);
// Throws std::invalid_argument where the warm-up of `spec` does not end before `steps`.
void require_schedule_fits(const std::string& spec, std::size_t steps);

}  // namespace gradview
