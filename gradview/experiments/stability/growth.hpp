// Second moments of the output y = s u v x of a LoRA adapter and of the gradient s vᵀuᵀδ that it
// passes back, as powers of m, n and r.
//
// One sample, x ~ N(0, I_n), δ ~ N(0, I_m), whose G = δ xᵀ stays the same: the gradient at the
// output is of size one in every entry, as the definitions of stability suppose. With
// s = α r^e (e = −1, or −½ for rslora), u = 0 and v of variance 1/(3n), for r ≪ n:
//
//                                        E y²                     E (s vᵀuᵀδ)²
//     SGD, first steps                   r^(4e+2)                 m² n⁻¹ r^(4e+1)
//     Adam, first steps                  r^(2e+2)                 m² n⁻¹ r^(2e+1)
//     Adam, once v moved by η ≫ 1/n      n² r^(2e+2)              m² r^(2e+2)
//     LoRA-GA, at its start              r^(2e+1)                 m n⁻¹ r^(2e+1)
//
// The first step is u = −η s δ aᵀ under SGD and −η sign(δ) sign(a)ᵀ under Adam, a = v x with
// E‖a‖² = r/3. Forwards, a meets itself: ‖a‖² and ‖a‖₁ are of order r. Backwards, vᵀa is a sum of r
// terms of random sign except along x itself, which counts only for r of order n. "First steps" is
// the limit of a small lr, where v has not moved; in the second step Adam moves v by η sign(a)
// sign(x)ᵀ, which answers x with η n. LoRA-GA starts with s u v = (ζ/s) U V of orthonormal U, V;
// ζ = α²√m/(γ r).
//
// Kalajdzievski: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023,
// arXiv:2312.03732, which has the mean over v of the first steps of SGD. Wang, Yu, Li: LoRA-GA,
// 2024, arXiv:2407.05000. Hayou, Ghosh, Yu: LoRA+, 2024, arXiv:2402.12354, on the motion of v.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gradview {

struct Sizes {
  std::size_t m, n, r;
};

enum class Start { zero, lora_ga };
enum class Phase { start, first, few, late };  // step 0, 1, K; and K with a rate at which v moves

struct Exponents {
  double m, n, r;
};

struct Case {
  std::string scaling;  // standard | rslora
  Start start;
  std::string optimizer;  // sgd | adam
  Phase phase;
  bool forward;
  Exponents theory;
};

const std::vector<Case>& stability_cases();
std::string name(const Case& c);  // "rslora adam, first step, output"
std::string name(Phase phase);

struct Trial {  // what one run needs beside its sizes
  std::string scaling, optimizer;
  Start start;
  bool late;
  double alpha = 16, gamma = 16;
  std::size_t steps = 5;
};

struct Energies {
  double forward, backward;  // mean square of an entry
};
// After 0, 1 and `steps` steps.
std::vector<Energies> run_trial(const Trial& trial, Sizes sizes, std::uint64_t seed);

}  // namespace gradview
