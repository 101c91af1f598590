// Learning-rate schedules: the factor on the base rate at step t of T, with linear warm-up over the
// first W steps.
//
//     constant 1     linear 1 − (1 − F) p     cosine F + (1 − F)(1 + cos πp)/2
//
// p = (t − W)/(T − W). With restart_every=K,restart_warmup=M the factor at each restart t = K, 2K, …
// falls to 1/(M + 1) of that and rises linearly back to it in M steps, for methods that begin anew
// (ReLoRA, arXiv:2307.05695; its code rises to the cosine's value at the restart, and jumps).
#pragma once

#include <functional>
#include <string>

namespace gradview {

using Schedule = std::function<double(std::size_t step, std::size_t steps)>;

inline double constant_schedule(std::size_t, std::size_t) { return 1; }

// From "cosine", "linear:warmup=10,final=0.1", "cosine:restart_every=100,restart_warmup=10"; throws
// std::invalid_argument.
Schedule make_schedule(const std::string& spec);
// Throws std::invalid_argument where the phases of `spec` do not fit in `steps`.
void require_schedule_fits(const std::string& spec, std::size_t steps);

}  // namespace gradview
