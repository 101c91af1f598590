#include "gradview/experiments/cost/counting.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "gradview/core/matrix.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kReal = sizeof(Real);

double thin(const Layer& l) { return l.rank * (l.m + l.n); }      // numbers of a pair of factors
double tokens(const Layer& l) { return l.tokens * (l.m + l.n); }  // of δ and x
double whole(const Layer& l) { return l.m * l.n; }

// G vᵀ = δᵀ(x vᵀ) and uᵀ G = (δ u)ᵀ x: four thin products. Reads δ, x and the frames, writes both.
Work project_factored(const Layer& l) {
  return {4 * l.tokens * thin(l), kReal * (tokens(l) + 2 * thin(l))};
}
// The same from a G that is there, in one read of it.
Work project_formed(const Layer& l) {
  return {4 * l.rank * whole(l), kReal * (whole(l) + 2 * thin(l))};
}
Work nothing(const Layer&) { return {}; }  // J = I, and the rule has moved W
// Strided sums of δ and of x, then one thin product each.
Work project_additive(const Layer& l) {
  return {tokens(l) + 2 * l.tokens * thin(l), kReal * (tokens(l) + thin(l))};
}
bool pairs_are_thin(const Layer& l) { return l.rank * thin(l) < whole(l); }  // r²(m + n) < mn
// Through v1 ⊙ v2 and u1 ⊙ u2 of r² rows and columns, which are made (1 per entry) and folded back
// (4); else from blocks of rows of G, each formed and let go: two products u v, two G ∘ (u v), four
// products with a factor.
Work project_loha(const Layer& l) {
  const double bytes = kReal * (tokens(l) + 4 * thin(l));
  if (pairs_are_thin(l)) return {(4 * l.tokens + 5) * l.rank * thin(l), bytes};
  return {2 * l.tokens * whole(l) + 12 * l.rank * whole(l) + 2 * whole(l), bytes};
}
// One side: G vᵀ where m >= n, else uᵀ G.
Work project_one_side(const Layer& l) {
  return {2 * l.tokens * thin(l), kReal * (tokens(l) + thin(l))};
}

// W += du v + u dv in one pass; the factors move too.
Work update_lora(const Layer& l) {
  return {4 * l.rank * whole(l) + thin(l), kReal * (2 * whole(l) + 2 * thin(l))};
}
Work update_frames(const Layer& l) {  // as LoRA, but the frames stay
  return {4 * l.rank * whole(l), kReal * (2 * whole(l) + thin(l))};
}
Work update_additive(const Layer& l) {
  return {2 * whole(l) + thin(l), kReal * (2 * whole(l) + 2 * thin(l))};
}
// Both products (4mnr), both moves (8mnr), one scaled move ∘ product added to W for each (3mn), and
// each product moved (1mn).
Work update_loha(const Layer& l) {
  return {12 * l.rank * whole(l) + 8 * whole(l) + 2 * thin(l),
          kReal * (2 * whole(l) + 4 * thin(l))};
}
Work update_one_side(const Layer& l) {
  return {2 * l.rank * whole(l), kReal * (2 * whole(l) + l.rank * std::min(l.m, l.n))};
}
// G formed, then its thin singular value decomposition: 14 l s² + 8 s³ for sides s <= l (Golub, Van
// Loan: Matrix Computations, 4th ed., section 8.6; an estimate, LAPACK's own way may differ).
Work refresh_svd(const Layer& l) {
  const double s = std::min(l.m, l.n), longer = std::max(l.m, l.n);
  Work work = weight_gradient_work(l);
  work += {14 * longer * s * s + 8 * s * s * s, kReal * (whole(l) + l.rank * s)};
  return work;
}

Priced::Forms never(const Layer&) { return Priced::Forms::never; }
Priced::Forms projecting(const Layer&) { return Priced::Forms::projecting; }
Priced::Forms before(const Layer&) { return Priced::Forms::before; }
// adam: m 3, v 4, bias corrections 2, root, ε, division, lr 1 each = 13; g, m, v read, m, v
// written. sgd: the learning rate; g read. On W itself, which the rule moves in the same pass: the
// sum, and W read and written.
struct Rule {
  const char* name;
  double flops, numbers;
};
constexpr Rule kAdam{"adam", 13, 5}, kAdamOnWeight{"adam", 14, 7};
constexpr Rule kSgd{"sgd", 1, 1}, kSgdOnWeight{"sgd", 2, 3};

// Of the layers whose inputs are equally far from the loss: q, k, v before o before up before down.
std::size_t depth(std::size_t weight) {
  constexpr std::size_t kWithin[] = {0, 0, 0, 1, 2, 3};
  return weight / 6 * 4 + kWithin[weight % 6];
}

}  // namespace

Layer layer(const LinearBlocks& model, std::size_t weight, std::size_t tokens, std::size_t rank) {
  const auto [m, n] = model.shape(weight);
  return {static_cast<double>(tokens), static_cast<double>(m), static_cast<double>(n),
          static_cast<double>(capped_rank(rank, {m, n}))};
}

Work forward_work(const Layer& l) {
  return {2 * l.tokens * whole(l), kReal * (tokens(l) + whole(l))};
}
Work delta_work(const Layer& l) { return forward_work(l); }
Work weight_gradient_work(const Layer& l) { return forward_work(l); }

std::vector<Priced> priced_methods(std::size_t rank, std::size_t refresh_every) {
  std::vector<Priced> all;
  const auto add = [&](const char* name, std::string projector, const Rule& rule,
                       Priced::Forms (*forms)(const Layer&), Work (*project)(const Layer&),
                       Work (*update)(const Layer&)) {
    all.push_back({.name = name,
                   .projector = std::move(projector),
                   .optimizer = rule.name,
                   .forms = forms,
                   .project = project,
                   .update = update,
                   .rule_flops = rule.flops,
                   .rule_numbers = rule.numbers});
  };
  const auto of_rank = [&](const char* name) { return fmt::format("{}:rank={}", name, rank); };
  add("full", "full", kAdamOnWeight, projecting, nothing, nothing);
  add("full, sgd", "full", kSgdOnWeight, projecting, nothing, nothing);
  add("lora, formed", of_rank("lora"), kAdam, before, project_formed, update_lora);
  add("lora", of_rank("lora"), kAdam, never, project_factored, update_lora);
  add("random, sgd", of_rank("random"), kSgd, never, project_factored, update_frames);
  add("additive", of_rank("additive"), kAdam, never, project_additive, update_additive);
  add("loha", of_rank("loha"), kAdam, never, project_loha, update_loha);
  add("galore", fmt::format("galore:rank={},refresh_every={}", rank, refresh_every), kAdam, never,
      project_one_side, update_one_side);
  all.back().refresh_every = refresh_every;
  all.back().refresh = refresh_svd;
  return all;
}

std::vector<Scenario> scenarios(const LinearBlocks& model, std::size_t last) {
  const std::vector<std::string> names = model.weight_names();
  std::vector<Scenario> all{{"all layers", names},
                            {fmt::format("last {}", last), {names.end() - last, names.end()}},
                            {"q and v", {}}};
  for (const std::string& name : names) {
    if (name.ends_with(".q.weight") || name.ends_with(".v.weight")) {
      all.back().trained.push_back(name);
    }
  }
  return all;
}

StepWork step_work(const LinearBlocks& model, std::size_t tokens, std::size_t rank,
                   const Scenario& scenario, const Priced& method) {
  const std::vector<std::string> names = model.weight_names();
  const auto index = [&](const std::string& name) {
    return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  };
  const std::size_t lowest = depth(index(scenario.trained.front()));
  StepWork out;
  const auto add = [&](Part part, const Work& work) {
    out.parts[static_cast<std::size_t>(part)] += work;
  };
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Shape shape = model.shape(i);
    const Layer at = layer(model, i, tokens, rank);
    add(Part::forward, forward_work(at));
    if (depth(i) > lowest) add(Part::delta, delta_work(at));
    const auto& trained = scenario.trained;
    if (std::find(trained.begin(), trained.end(), names[i]) == trained.end()) continue;
    if (method.forms(at) != Priced::Forms::never) {
      add(Part::weight_gradient, weight_gradient_work(at));
    }
    const auto numbers =
        static_cast<double>(count_numbers(parse_spec(method.projector), shape).trained);
    add(Part::project, method.project(at));
    add(Part::rule, {method.rule_flops * numbers, method.rule_numbers * numbers * kReal});
    add(Part::update, method.update(at));
    out.trained += numbers;
    out.exchange_bytes += numbers * kReal;
    if (!method.refresh) continue;
    out.refresh += method.refresh(at);
    out.refresh_exchange_bytes += static_cast<double>(shape.size()) * kReal;
  }
  return out;
}

double ring_seconds(double bytes, std::size_t workers, double gigabits) {
  const auto p = static_cast<double>(workers);
  return 2 * (p - 1) / p * bytes * 8 / (gigabits * 1e9);
}

}  // namespace gradview
