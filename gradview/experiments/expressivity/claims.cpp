#include "gradview/experiments/expressivity/claims.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace gradview {
namespace {

// Rounding of a fit that is exact; differences below it are none.
constexpr double kExact = 1e-7;

std::string decide(const Claim& claim, bool at_least) {
  const Interval& d = claim.difference;
  if (std::isnan(d.low)) return "undecided";
  if (d.low >= -kExact && d.high <= kExact) return at_least ? "holds" : "does not";
  if (!(claim.adjusted_p < 0.05)) return "undecided";
  return d.mean > 0 ? "holds" : "does not";
}

struct Contest {
  const char* hypothesis;
  const char *first, *second;
  std::size_t first_budget, second_budget;
  std::string statement;
  bool at_least, shown;
};

std::vector<Contest> contests(const std::set<std::size_t>& budgets) {
  std::vector<Contest> out{
      {"H4", "additive", "lora", 1, 1, "additive of rank 1 >= lora of rank 1", true, true}};
  const std::size_t most = *budgets.rbegin();
  for (const std::size_t b : budgets) {
    if (b > 1) {
      out.push_back({"H6", "additive", "lora", b, b,
                     fmt::format("block-additive of rank {0} >= lora of rank {0}", b), true,
                     2 * b == most});
    }
    if (b > 1 && budgets.count(2 * b) > 0) {
      out.push_back({"H6", "additive", "lora", b, 2 * b,
                     fmt::format("block-additive of rank {} >= lora of rank {}", b, 2 * b), true,
                     2 * b == most});
    }
    out.push_back({"H12", "loha", "lora", b, b,
                   fmt::format("loha > lora with the numbers of rank {}", b), false, b == most});
  }
  return out;
}

}  // namespace

std::vector<Claim> judge(const Captured& captured) {
  std::set<std::pair<std::string, std::string>> places;
  std::set<std::size_t> budgets;
  for (const auto& [cell, values] : captured) {
    places.emplace(cell.target, cell.norm);
    budgets.insert(cell.budget);
  }
  std::vector<Claim> claims;
  std::vector<bool> at_least;
  std::vector<double> p_values;
  if (budgets.empty()) return claims;
  for (const Contest& contest : contests(budgets)) {
    for (const auto& [target, norm] : places) {
      const auto first = captured.find({target, norm, contest.first, contest.first_budget});
      const auto second = captured.find({target, norm, contest.second, contest.second_budget});
      if (first == captured.end() || second == captured.end()) continue;
      std::vector<double> differences;
      for (std::size_t i = 0; i < first->second.size(); ++i) {
        differences.push_back(first->second[i] - second->second[i]);
      }
      p_values.push_back(t_test(differences));
      at_least.push_back(contest.at_least);
      claims.push_back({contest.hypothesis, contest.statement, target, norm,
                        t_interval(differences), 1, "undecided", contest.shown});
    }
  }
  const std::vector<double> adjusted = holm(p_values);
  for (std::size_t i = 0; i < claims.size(); ++i) {
    claims[i].adjusted_p = adjusted[i];
    claims[i].verdict = decide(claims[i], at_least[i]);
  }
  return claims;
}

std::string flat_only(const std::vector<Claim>& claims) {
  bool flat_wins = false, steep_wins = false, open = false, any = false;
  const auto is_flat = [](const Claim& c) { return c.target == "flat"; };
  const auto is_steep = [](const Claim& c) {
    return c.target == "power-1" || c.target == "power-2";
  };
  for (const Claim& claim : claims) {
    if (claim.hypothesis != "H12" || !(is_flat(claim) || is_steep(claim))) continue;
    any = true;
    open = open || claim.verdict == "undecided";
    flat_wins = flat_wins || (is_flat(claim) && claim.verdict == "holds");
    steep_wins = steep_wins || (is_steep(claim) && claim.verdict == "holds");
  }
  if (!any) return "undecided";
  if (steep_wins) return "does not";
  if (flat_wins) return open ? "undecided" : "holds";
  return open ? "undecided" : "does not";
}

}  // namespace gradview
