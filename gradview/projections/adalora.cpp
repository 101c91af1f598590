#include "gradview/projections/adalora.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace gradview {

void AdaLora::Options::check(std::size_t steps) const {
  const auto fail = [](const std::string& what) {
    throw std::invalid_argument("adalora: " + what);
  };
  if (target && budget) fail("target and budget say the same; give one of them");
  if (!budget && mean_target() >= static_cast<double>(rank)) {
    fail(
        fmt::format("target={:g} leaves nothing to prune of rank={}; take a lower target or a "
                    "higher rank",
                    mean_target(), rank));
  }
  if (budget && *budget != std::floor(*budget)) {
    fail(fmt::format("budget={:g} is not a whole number of triplets", *budget));
  }
  for (const auto& [name, phase] : {std::pair{"tinit", warmup}, std::pair{"tfinal", last}}) {
    if (phase < 1 || phase == std::floor(phase)) continue;
    fail(fmt::format("{}={:g} is neither a part of the run (below 1) nor a whole number of steps",
                     name, phase));
  }
  if (steps == 0) return;  // not known yet
  const BudgetPhases p = phases(steps);
  if (!p.fit()) {
    fail(fmt::format("tinit={} and tfinal={} leave none of the {} steps for the budget to fall",
                     p.warmup, p.final, steps));
  }
  if (!p.ever_mask()) {
    fail(fmt::format("deltaT={} allows no mask within {} steps with tinit={} and tfinal=0", every,
                     steps, p.warmup));
  }
}

Figures AdaLora::figures() const {
  double rank = 0, live = 0, returns = 0;
  for (std::size_t i = 0; i < r_; ++i) {
    rank += kept_(i, 0);
    live += lambda_(i, 0) != 0;
    returns += returns_(i, 0);
  }
  const double left = squared_norm(gram_excess(u_, true));
  const double right = squared_norm(gram_excess(v_, false));
  const double penalty =
      o_.penalty == Penalty::norm ? (std::sqrt(left) + std::sqrt(right)) / 2 : left + right;
  return {{"rank", rank},
          {"live", live},
          {"returns", returns},
          {"penalty", o_.gamma * penalty},
          {"orthogonality", (std::sqrt(left) + std::sqrt(right)) / 2}};
}

void AdaLora::remember() {
  if (gradient_.empty()) return;  // none was collected
  const Matrix* theta[] = {&u_, &lambda_, &v_};
  for (std::size_t k = 0; k < 3; ++k) {
    importance_[k].follow(*theta[k], gradient_[k], o_.beta1, o_.beta2);
  }
}

void AdaLora::keep(const std::vector<bool>& kept, Matrix* w) {
  std::vector<std::size_t> gone;  // that W still holds
  for (std::size_t i = 0; i < r_; ++i) {
    if (!kept[i] && lambda_(i, 0) != 0) gone.push_back(i);
    if (kept[i] && kept_(i, 0) == 0) returns_(i, 0) += 1;
    kept_(i, 0) = kept[i] ? 1 : 0;
  }
  Matrix u = uninitialized({u_.shape()[0], gone.size()});
  Matrix v = uninitialized({gone.size(), v_.shape()[1]});
  for (std::size_t k = 0; k < gone.size(); ++k) {
    for (std::size_t i = 0; i < u.shape()[0]; ++i) u(i, k) = u_(i, gone[k]);
    for (std::size_t j = 0; j < v.shape()[1]; ++j) v(k, j) = lambda_(gone[k], 0) * v_(gone[k], j);
    lambda_(gone[k], 0) = 0;
  }
  if (w && !gone.empty()) add_matmul(*w, -s_, u, v);
}

void AdaLora::after_step(std::span<const Peer> peers) {
  const Site& site = peers.front().site;
  const BudgetPhases phases = o_.phases(site.steps);
  std::vector<AdaLora*> all;
  std::size_t initial = 0;
  double target = 0;
  for (const Peer& peer : peers) {
    all.push_back(&dynamic_cast<AdaLora&>(peer.projector));
    AdaLora& one = *all.back();
    if (!(one.o_.phases(site.steps) == phases) || one.o_.budget != o_.budget) {
      throw std::invalid_argument("adalora: '" + peer.site.name + "' and '" + site.name +
                                  "' share one budget; give them the same tinit, tfinal, deltaT "
                                  "and budget");
    }
    if (site.step < phases.end()) one.remember();
    one.gradient_.clear();
    initial += one.r_;
    target += one.o_.mean_target();
  }
  if (o_.budget && *o_.budget >= static_cast<double>(initial)) {
    throw std::invalid_argument(
        fmt::format("adalora: budget={:g} leaves nothing to prune of the {} triplets of {} "
                    "matrices; take a smaller one",
                    *o_.budget, initial, all.size()));
  }
  if (!phases.masks(site.step, o_.variant != Variant::official)) return;
  target = std::round(o_.budget.value_or(target));
  share_out(all, peers, phases.budget(site.step, initial, static_cast<std::size_t>(target)));
}

// The `budget` best triplets of all matrices live on. Where a score is not finite, the run has
// diverged, and nothing is masked.
void AdaLora::share_out(const std::vector<AdaLora*>& all, std::span<const Peer> peers,
                        std::size_t budget) {
  std::vector<Triplet> triplets;
  std::vector<std::vector<bool>> kept;
  for (std::size_t k = 0; k < all.size(); ++k) {
    kept.emplace_back(all[k]->r_, true);
    for (std::size_t i = 0; i < all[k]->r_; ++i) triplets.push_back({k, i, all[k]->score(i)});
  }
  if (!std::all_of(triplets.begin(), triplets.end(),
                   [](const Triplet& t) { return std::isfinite(t.score); })) {
    return;
  }
  for (const Triplet& out : lowest(triplets, triplets.size() - budget)) {
    kept[out.matrix][out.component] = false;
  }
  for (std::size_t k = 0; k < all.size(); ++k) all[k]->keep(kept[k], peers[k].weight);
}

}  // namespace gradview
