// The budget of AdaLoRA: how many triplets (u_i, λ_i, v_i) of all matrices together live at step t.
//
//     b(t) = b₀                                                    t ≤ tᵢ
//          = ⌊b_T + (b₀ − b_T)(1 − (t − tᵢ)/(T − t_f − tᵢ))³⌋       tᵢ < t ≤ T − t_f
//          = b_T                                                   t > T − t_f
//
// Zhang et al.: AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023,
// arXiv:2303.10512. The article prints t − tᵢ − t_f in the numerator, which starts above b₀ and
// jumps at both ends; this is the continuous form, which the authors' code has.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace gradview {

struct BudgetPhases {      // in steps, counted from 0
  std::size_t warmup = 0;  // tᵢ
  std::size_t final = 0;   // t_f
  std::size_t every = 1;   // Δ_T: steps between two masks while the budget falls
  std::size_t steps = 0;   // T

  bool operator==(const BudgetPhases&) const = default;
  std::size_t end() const { return steps - final; }  // of the falling; b(end) = b_T
  bool fit() const { return warmup + final < steps; }
  bool ever_mask() const { return final > 0 || (steps - 1) / every > warmup / every; }

  std::size_t budget(std::size_t t, std::size_t initial, std::size_t target) const {
    if (t <= warmup || initial <= target) return initial;
    if (t > end()) return target;
    const double left = 1 - static_cast<double>(t - warmup) / static_cast<double>(end() - warmup);
    return static_cast<std::size_t>(static_cast<double>(initial - target) * std::pow(left, 3) +
                                    static_cast<double>(target));
  }
  bool masks(std::size_t t, bool forced) const {
    if (t <= warmup) return false;
    return t > end() || t % every == 0 || (forced && t == end());
  }
};

struct Triplet {
  std::size_t matrix, component;
  double score;
};

// The `count` triplets with the lowest scores. Of equals, those of the highest component go first,
// over all matrices alike: where nothing tells them apart, the matrices keep equal ranks. (A
// threshold, score ≤ the count-th lowest, would take all equals, and all triplets where every score
// is zero.)
inline std::vector<Triplet> lowest(std::vector<Triplet> all, std::size_t count) {
  std::sort(all.begin(), all.end(), [](const Triplet& a, const Triplet& b) {
    if (a.score != b.score) return a.score < b.score;
    return a.component != b.component ? a.component > b.component : a.matrix > b.matrix;
  });
  all.resize(std::min(count, all.size()));
  return all;
}

}  // namespace gradview
