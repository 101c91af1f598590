#include "gradview/experiments/cost/steps.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <utility>

#include "gradview/core/rng.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Runner {
 public:
  Runner(const Plan& plan, const Case& of, Weights& weights)
      : plan_(plan), model_(plan.model), case_(of), weights_(weights) {
    model_.compute = of.compute->compute;
    const std::vector<std::string> names = plan.model.weight_names();
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto& trained = of.scenario->trained;
      if (std::find(trained.begin(), trained.end(), names[i]) == trained.end()) continue;
      forms_[names[i]] = of.method->forms(layer(plan.model, i, plan.tokens, plan.rank));
    }
    restart();
  }

  void restart() {                  // with new moments, as before the first step
    constexpr double kRate = 1e-6;  // W is written every step, and moves next to nothing
    optimizer_ = std::make_unique<Optimizer>(
        Optimizer::Settings{.spec = make_optimizer_spec(parse_spec(case_.method->optimizer)),
                            .lr = kRate,
                            .seed = plan_.seed});
    for (const std::string& name : case_.scenario->trained) {
      Matrix& w = weights_[name];
      optimizer_->add(name, w,
                      make_projector(parse_spec(case_.method->projector), {name, w, plan_.seed}));
    }
  }

  std::size_t state_bytes() const { return optimizer_->state_bytes(); }

  // One step: its parts, and what choosing the subspace took.
  std::pair<SecondsOfParts, double> step(const Matrix& x, const Matrix& target) {
    SecondsOfParts out{};
    const auto at = [&](Part part) -> double& { return out[static_cast<std::size_t>(part)]; };
    const StepSeconds before = optimizer_->seconds();
    double start = now();
    LinearBlocks::Pass pass = model_.forward(weights_, x);
    at(Part::forward) = now() - start;
    Matrix delta;
    mean_squared_error(pass.outputs, target, &delta);
    collecting_ = forming_ = 0;
    start = now();
    model_.backward(
        std::move(pass), std::move(delta),
        [this](const std::string& name, const Gradient& g) { collect(name, g); },
        case_.scenario->trained.front());
    at(Part::delta) = now() - start - collecting_;
    start = now();
    optimizer_->step();
    const double stepping = now() - start;
    const StepSeconds& after = optimizer_->seconds();
    const double refresh = after.refresh - before.refresh;
    const double update = after.update - before.update;
    at(Part::weight_gradient) = forming_;
    at(Part::project) = collecting_ - forming_;
    at(Part::rule) = stepping - update;
    at(Part::update) = update;
    return {out, refresh};
  }

 private:
  void collect(const std::string& name, const Gradient& g) {
    const auto forms = forms_.find(name);
    if (forms == forms_.end()) return;
    const double start = now();
    const double projected = optimizer_->seconds().project;
    if (forms->second == Priced::Forms::before) {
      const Gradient formed = Gradient::dense(g.materialize());
      forming_ += now() - start;
      optimizer_->collect(name, formed);
    } else {
      optimizer_->collect(name, g);
    }
    if (forms->second == Priced::Forms::projecting) {
      forming_ += optimizer_->seconds().project - projected;
    }
    collecting_ += now() - start;
  }

  const Plan& plan_;
  LinearBlocks model_;
  const Case& case_;
  Weights& weights_;
  std::map<std::string, Priced::Forms> forms_;  // of the trained weights
  std::unique_ptr<Optimizer> optimizer_;
  double collecting_ = 0, forming_ = 0;
};

// Gives `part` of this round the median over the cases that are alike.
template <class Alike>
void pool(std::vector<Case>& cases, std::size_t round, Part part, const Alike& alike) {
  const auto at = static_cast<std::size_t>(part);
  std::vector<double> pooled;
  for (const Case& one : cases) {
    std::vector<double> seconds;
    for (const Case& other : cases) {
      if (alike(one, other)) seconds.push_back(other.rounds[round][at]);
    }
    pooled.push_back(median(seconds));
  }
  for (std::size_t i = 0; i < cases.size(); ++i) cases[i].rounds[round][at] = pooled[i];
}

}  // namespace

const std::vector<Arithmetic>& arithmetics() {
  static const std::vector<Arithmetic> all = [] {
    std::vector<Arithmetic> here{{"float", Compute::real}};
    if (bf16_runs_here()) here.push_back({"bf16", Compute::bf16});
    return here;
  }();
  return all;
}

double Case::step(std::size_t round) const {
  return std::accumulate(rounds[round].begin(), rounds[round].end(), 0.0);
}

void measure(const Plan& plan, std::vector<Case>& cases, Progress& progress) {
  Weights weights = plan.model.initial(plan.seed);
  const auto draw = [&](std::size_t which) {
    return normal({plan.tokens, plan.model.width}, 1,
                  Stream(plan.seed, Purpose::data, "tokens", which));
  };
  const Matrix x = draw(0), target = draw(1);
  std::vector<Runner> runners;
  for (const Case& one : cases) runners.emplace_back(plan, one, weights);
  progress.expect(cases.size() * (plan.repeats + 1));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const bool rarely = cases[i].method->refresh_every > 0;
    for (std::size_t k = 0; k < (rarely ? plan.refreshes : 1); ++k) {
      throw_if_stop_requested();
      if (k > 0) runners[i].restart();
      const double refresh = runners[i].step(x, target).second;
      if (rarely) cases[i].refreshes.push_back(refresh);
    }
    cases[i].state_bytes = runners[i].state_bytes();
    progress.done("warming up");
  }
  for (std::size_t round = 0; round < plan.repeats; ++round) {
    for (std::size_t k = 0; k < cases.size(); ++k) {
      throw_if_stop_requested();
      const std::size_t i = (round + k) % cases.size();  // nobody always follows the same one
      cases[i].rounds.push_back(runners[i].step(x, target).first);
      progress.done(cases[i].method->name);
    }
    const auto same_forward = [](const Case& a, const Case& b) { return a.compute == b.compute; };
    pool(cases, round, Part::forward, same_forward);
    pool(cases, round, Part::delta, [&](const Case& a, const Case& b) {
      return same_forward(a, b) && a.scenario == b.scenario;
    });
  }
}

}  // namespace gradview
