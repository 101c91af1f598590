// What may be said about the hypotheses, from captured energies paired by seed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gradview/experiments/statistics.hpp"

namespace gradview {

// (target, norm, method, budget) → captured energy per seed
struct Cell {
  std::string target, norm, method;
  std::size_t budget;  // in numbers of LoRA of rank 1
  auto operator<=>(const Cell&) const = default;
};
using Captured = std::map<Cell, std::vector<double>>;

struct Claim {
  std::string hypothesis, statement, target, norm;
  Interval difference;  // of captured energy, first method − second
  double adjusted_p;    // Holm over all claims of the call
  std::string verdict;  // of `statement`: holds | does not | undecided
  bool shown;           // on stdout: H6 and H12 at one budget, the rest is in claims.csv
};

// H4: additive of rank 1 captures at least what LoRA of rank 1 does. H6: block-additive of rank r
// captures at least what LoRA of rank r, of rank 2r does. H12: LoHa captures more than LoRA with as
// many numbers. Each for every target and norm, where the methods are in the table.
std::vector<Claim> judge(const Captured& captured);
// H12 as a whole: holds where LoHa wins on the flat spectrum and on none that falls as 1/i or
// faster.
std::string flat_only(const std::vector<Claim>& claims);

}  // namespace gradview
