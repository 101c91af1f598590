#include "gradview/experiments/subspace/bases.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gradview {
namespace {

std::size_t present(const Svd& s, std::size_t most) {
  std::size_t count = 0;
  while (count < std::min(most, s.singular.size()) && s.singular[count] > 1e-5 * s.singular[0]) {
    ++count;
  }
  return count;
}

double degrees(double cosine) { return 180 / std::numbers::pi * std::acos(cosine); }

}  // namespace

void Bases::watch(const Watched& seen) {
  for (const std::string& name : seen.optimizer.names()) {
    const Matrix& w = seen.weights[name];
    const Matrix& w0 = seen.start[name];
    if (w.shape()[0] == 1 || !all_finite(w)) continue;
    if (seen.step < last_step_) {
      const Observation& observed = seen.optimizer.observation(name);
      seen.add(name, "gain", observed.gain());
      seen.add(name, "cosine", observed.cosine());
    }
    const Matrix delta = difference(w, w0);
    if (squared_norm(delta) == 0) continue;
    const Svd s = svd(delta);
    seen.add(name, "stable_rank", stable_rank(s));
    seen.add(name, "energy_rank_90", static_cast<double>(energy_rank(s)));
    const Key key{seen.run.curve.method, seen.run.seed, name};
    const std::size_t kept = present(s, directions_);
    Matrix now = rows(s.vt, 0, kept);
    const std::scoped_lock lock(mutex_);
    if (!base_.contains(name)) base_.emplace(name, svd(w0));
    const auto intruders = static_cast<double>(intruder_dimensions(base_.at(name), svd(w)));
    seen.add(name, "intruders", intruders);
    const auto old = before_.find(key);
    if (old != before_.end() && seen.step > 0) {
      const auto cosines = principal_cosines(old->second, now);
      seen.add(name, "overlap", subspace_similarity(old->second, now));
      seen.add(name, "largest_angle", degrees(cosines.back()));
    }
    if (seen.step == last_step_) ends_.insert_or_assign(key, End{delta, now, kept, intruders});
    before_.insert_or_assign(key, std::move(now));
  }
}

const Bases::End* Bases::find(const std::string& method, std::uint64_t seed,
                              const std::string& matrix) const {
  const auto found = ends_.find({method, seed, matrix});
  return found == ends_.end() ? nullptr : &found->second;
}

}  // namespace gradview
