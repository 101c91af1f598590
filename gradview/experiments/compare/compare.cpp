#include "gradview/experiments/compare/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/compare/comparison.hpp"
#include "gradview/experiments/compare/search.hpp"
#include "gradview/experiments/compare/table.hpp"
#include "gradview/experiments/compare/trials.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/sweep.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDiverged = -std::numeric_limits<double>::infinity();

// One call of compare: tunes every curve, reports every curve, judges.
class Compare {
 public:
  Compare(const CompareSettings& settings, const TaskFamily& family, RunFolder& folder,
          Progress& progress)
      : settings_(settings),
        progress_(progress),
        sweep_(family, settings.training, settings.jobs, folder, progress) {
    for (const Curve& curve : settings.curves()) {
      searches_.emplace_back(curve, SearchRule{settings.listed_rates(), settings.trials});
      const auto& more = searches_.back().alternatives();
      curves_.insert(curves_.end(), more.begin(), more.end());
      if (!settings.best_from.empty()) {
        searches_.back().settle(chosen_in_table(settings.best_from, more));
      }
    }
    tunes_ = std::any_of(searches_.begin(), searches_.end(),
                         [](const Search& search) { return !search.next().empty(); });
  }

  // Pre-trains, shows and checks the plan of every method. Throws before anything is trained on it.
  void prepare() {
    std::vector<std::uint64_t> seeds = settings_.reported_seeds();
    if (tunes_) {
      const auto more = settings_.tuning_seeds();
      seeds.insert(seeds.end(), more.begin(), more.end());
    }
    sweep_.prepare({seeds.front()});
    const Task& task = sweep_.task(seeds.front());
    if (settings_.training.batch_size > task.examples()) {
      throw std::invalid_argument(
          fmt::format("--batch-size {} is more than the {} training examples",
                      settings_.training.batch_size, task.examples()));
    }
    std::vector<std::string> tables;  // of each projector, with the first value of its knob
    for (const Curve& curve : curves_) {
      const auto planned = plan(adaptation_of(curve.method, settings_.training), task.start(),
                                task.before_softmax());
      Weights weights = task.start();
      Optimizer trial({.spec = make_optimizer_spec(parse_spec(curve.optimizer))});
      apply(planned, weights, seeds.front(), trial);  // refuses what has no meaning together
      if (curve.optimizer == settings_.optimizers.front() && is_first(curve)) {
        tables.push_back(curve.method + "\n" + describe(planned));
      }
    }
    for (const std::string& text : tables) progress_.note(text);
    const auto full =
        plan(adaptation_of("full", settings_.training), task.start(), task.before_softmax());
    full_adam_bytes_ = 2 * trained_numbers(full) * sizeof(Real);
    seeds.erase(seeds.begin());
    progress_.note(fmt::format("preparing the start of {} more seeds", seeds.size()));
    sweep_.prepare(seeds);
    sweep_.restore(settings_.reported_seeds());
  }

  void tune() {
    while (true) {
      std::vector<RunKey> wave;
      std::vector<std::pair<std::size_t, Candidate>> candidates;
      for (std::size_t c = 0; c < searches_.size(); ++c) {
        for (const Candidate& candidate : searches_[c].next()) {
          candidates.emplace_back(c, candidate);
          for (const std::uint64_t seed : settings_.tuning_seeds()) {
            wave.push_back({candidate.curve, candidate.lr, seed, false});
          }
        }
      }
      if (wave.empty()) break;
      expect(wave.size());
      sweep_.run(wave);
      for (const auto& [c, candidate] : candidates) {
        searches_[c].record(candidate, score(candidate));
      }
      order_.insert(order_.end(), wave.begin(), wave.end());
    }
  }

  void report() {
    std::vector<RunKey> runs;
    for (const Search& search : searches_) {
      const Candidate best = search.best();
      for (const std::uint64_t seed : settings_.reported_seeds()) {
        runs.push_back({best.curve, best.lr, seed, true});
      }
    }
    expect(runs.size());
    sweep_.run(runs);
    order_.insert(order_.end(), runs.begin(), runs.end());
    std::stable_sort(order_.begin(), order_.end(), [&](const RunKey& a, const RunKey& b) {
      return std::tuple(position(a.curve), a.test, a.lr, a.seed) <
             std::tuple(position(b.curve), b.test, b.lr, b.seed);
    });
    sweep_.write(order_);
  }

  Table judge() {
    progress_.note("timing one step of every curve");
    const std::uint64_t seed = settings_.reported_seeds().front();
    std::vector<std::pair<Curve, double>> timed;
    for (const Search& search : searches_) {
      timed.emplace_back(search.best().curve, search.best().lr);
    }
    const std::vector<double> seconds =
        step_seconds(sweep_.task(seed), timed, seed, settings_.training, 40);
    std::vector<Evidence> evidence(searches_.size());
    for (std::size_t c = 0; c < searches_.size(); ++c) {
      Evidence& one = evidence[c];
      one.curve = timed[c].first;
      one.listed = searches_[c].listed().method;
      one.lr = timed[c].second;
      one.step_seconds = seconds[c];
      one.predicted_ratio = predicted_ratio(one.curve);
      for (const std::uint64_t s : settings_.reported_seeds()) {
        const auto best = sweep_.task(s).best_accuracy(parse_placed(one.curve.method).projector);
        if (best) one.best_accuracy.push_back(*best);
      }
      const auto& ours = searches_[c].alternatives();
      for (const RunKey& key : order_) {
        if (std::find(ours.begin(), ours.end(), key.curve) == ours.end()) continue;
        one.all.push_back(&sweep_.result(key));
        if (key.test) one.reported.push_back(&sweep_.result(key));
      }
    }
    Table table = compare(evidence, settings_.contrast_pairs(), settings_.margin / 100);
    table.full_adam_bytes = full_adam_bytes_;
    return table;
  }

  // What every trial of each line's search was worth.
  std::vector<std::vector<double>> scores() const {
    std::vector<std::vector<double>> all;
    for (const Search& search : searches_) all.push_back(search.scores());
    return all;
  }

  std::size_t runs() const { return order_.size(); }

 private:
  // Mean final validation accuracy over the tuning seeds.
  double score(const Candidate& candidate) const {
    double sum = 0;
    for (const std::uint64_t seed : settings_.tuning_seeds()) {
      const Run& run = sweep_.result({candidate.curve, candidate.lr, seed, false});
      const Row* last = run.last("validation");
      if (run.diverged() || !last || !std::isfinite(last->accuracy.value_or(kDiverged)))
        return kDiverged;
      sum += *last->accuracy;
    }
    return sum / static_cast<double>(settings_.tune_seeds);
  }

  // How many runs there will be, judging by the usual length of a search.
  void expect(std::size_t wave) {
    const std::size_t trials =
        settings_.trials ? *settings_.trials * searches_.size() : 9 * curves_.size();
    const std::size_t tuned =
        std::max(order_.size() + wave, tunes_ ? trials * settings_.tune_seeds : 0);
    progress_.expect(std::max(order_.size() + wave, tuned + settings_.seeds * searches_.size()));
  }

  bool is_first(const Curve& curve) const {
    return std::any_of(searches_.begin(), searches_.end(), [&](const Search& search) {
      return search.alternatives().front() == curve;
    });
  }

  std::size_t position(const Curve& curve) const {
    return static_cast<std::size_t>(std::find(curves_.begin(), curves_.end(), curve) -
                                    curves_.begin());
  }

  // Steps over full's under plain SGD, for frames that come anew every step: 1 + relative variance
  // on the largest matrix.
  std::optional<double> predicted_ratio(const Curve& curve) const {
    const OptimizerSpec spec = make_optimizer_spec(parse_spec(curve.optimizer));
    if (spec.rule.start({1, 1}).size() > 0 || settings_.projectors.front() != "full")
      return std::nullopt;
    const std::uint64_t seed = settings_.reported_seeds().front();
    const Task& task = sweep_.task(seed);
    std::optional<double> largest;
    for (const Planned& planned : plan(adaptation_of(curve.method, settings_.training),
                                       task.start(), task.before_softmax())) {
      if (!planned.projector || planned.vector) continue;
      const auto projector =
          make_projector(*planned.projector, Site{.name = planned.name,
                                                  .weight = task.start()[planned.name],
                                                  .seed = seed,
                                                  .steps = settings_.training.steps,
                                                  .before_softmax = planned.before_softmax});
      const auto expected = projector->expectation();
      if (!expected || projector->refresh_every() != 1) continue;
      const double ratio = 1 + expected->variance / (expected->mean * expected->mean);
      largest = std::max(largest.value_or(0), ratio);
    }
    return largest;
  }

  const CompareSettings& settings_;
  Progress& progress_;
  Sweep sweep_;
  std::vector<Search> searches_;
  std::vector<Curve> curves_;  // of all searches, with every value of their knobs
  std::vector<RunKey> order_;
  std::size_t full_adam_bytes_ = 0;
  bool tunes_ = false;
};

Json finite(double x) { return std::isfinite(x) ? Json(x) : Json(exact(x)); }

Json summary(const Table& table, std::size_t runs, double seconds) {
  Json lines = Json::array();
  for (const Line& line : table.lines) {
    lines.push_back({{"method", line.curve.method},
                     {"optimizer", line.curve.optimizer},
                     {"lr", line.lr},
                     {"accuracy", finite(line.accuracy.mean)},
                     {"difference", finite(line.difference.mean)},
                     {"verdict", line.verdict},
                     {"diverged", line.diverged}});
  }
  return {{"runs", runs}, {"wall_seconds", seconds}, {"table", lines}};
}

int run(int argc, const char* const* argv) {
  const auto begin = std::chrono::steady_clock::now();
  CompareSettings settings;
  FolderFlags folder_flags;
  Flags flags("compare", "low-rank methods against full-rank training, tuned and paired");
  settings.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  settings.finish(flags);
  set_threads(settings.threads);

  RunFolder folder("compare", folder_flags);
  Progress progress(settings.quiet);
  const TaskFamily family = prepare_task(parse_spec(settings.task), settings.context);
  Json metadata = machine_metadata("compare");
  metadata["compute"] = settings.compute.record();
  for (const auto& [key, value] : family.record) metadata["task"][key] = value;
  metadata["seeds"] = settings.reported_seeds();
  metadata["tuning_seeds"] = settings.tuning_seeds();

  Compare work(settings, family, folder, progress);
  try {
    work.prepare();
    folder.begin(flags.resolved(), metadata);
    work.tune();
    work.report();
  } catch (const Interrupted&) {
    progress.clear();
    fmt::print(stderr,
               "compare: interrupted after {} of about {} runs; go on with the same flags and "
               "--resume --out {}\n",
               progress.finished(), progress.total(), folder.path());
    throw;
  }
  const Table table = work.judge();
  folder.write("table.csv", table_csv(table));
  if (settings.trials) folder.write("trials.csv", trials_csv(table, work.scores()));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  finish_run(folder, summary(table, work.runs(), seconds.count()), false, [&] {
    progress.clear();
    fmt::print("{}", table_text(table, settings.margin / 100, settings.group_by == "state"));
    if (settings.training.steps < 1000) {
      fmt::print(
          "{} steps are a short run: a method that starts slowly is still learning; see --steps "
          "3000 before ranking\n",
          settings.training.steps);
    }
  });
  const bool all_diverged =
      std::all_of(table.lines.begin(), table.lines.end(),
                  [](const Line& line) { return line.diverged == line.seeds.size(); });
  if (all_diverged) throw DivergedError("every run diverged; see " + folder.file("metrics.csv"));
  return 0;
}

}  // namespace

int compare_main(int argc, const char* const* argv) {
  return run_program("compare", [&] { return run(argc, argv); });
}

}  // namespace gradview
