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
#include "gradview/experiments/compare/table.hpp"
#include "gradview/experiments/driver/plots.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/sweep.hpp"
#include "gradview/experiments/tuning.hpp"
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
        sweep_(family, settings.training, settings.jobs, folder, progress),
        curves_(settings.curves()),
        searches_(curves_.size()) {}

  // Pre-trains, shows and checks the plan of every method. Throws before anything is trained on it.
  void prepare() {
    std::vector<std::uint64_t> seeds = settings_.reported_seeds();
    if (tunes()) {
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
    for (const Curve& curve : curves_) {
      const auto planned = plan(adaptation_of(curve.method, settings_.training), task.start(),
                                task.before_softmax());
      Weights weights = task.start();
      Optimizer trial({.spec = make_optimizer_spec(parse_spec(curve.optimizer))});
      apply(planned, weights, seeds.front(), trial);  // refuses what has no meaning together
      if (curve.optimizer == settings_.optimizers.front()) {
        progress_.note(curve.method + "\n" + describe(planned));
      }
    }
    seeds.erase(seeds.begin());
    progress_.note(fmt::format("preparing the start of {} more seeds", seeds.size()));
    sweep_.prepare(seeds);
    sweep_.restore(settings_.reported_seeds());
  }

  void tune() {
    const auto listed = settings_.listed_rates();
    for (std::size_t c = 0; c < curves_.size(); ++c) {
      if (!settings_.best_from.empty()) {
        searches_[c].best = lr_from_table(settings_.best_from, curves_[c]);
      } else if (listed.size() == 1) {
        searches_[c].best = listed[0];
      }
    }
    if (!tunes()) return;
    while (true) {
      std::vector<RunKey> wave;
      std::vector<std::vector<double>> rates(curves_.size());
      for (std::size_t c = 0; c < curves_.size(); ++c) {
        rates[c] = next_rates(searches_[c], curves_[c], listed);
        for (const double rate : rates[c]) {
          for (const std::uint64_t seed : settings_.tuning_seeds()) {
            wave.push_back({curves_[c], rate, seed, false});
          }
        }
      }
      if (wave.empty()) break;
      expect(wave.size());
      sweep_.run(wave);
      for (std::size_t c = 0; c < curves_.size(); ++c) {
        for (const double rate : rates[c]) searches_[c].scores[rate] = score(curves_[c], rate);
      }
      order_.insert(order_.end(), wave.begin(), wave.end());
    }
    for (Search& search : searches_) search.best = best_rate(search, listed);
  }

  void report() {
    std::vector<RunKey> runs;
    for (std::size_t c = 0; c < curves_.size(); ++c) {
      for (const std::uint64_t seed : settings_.reported_seeds()) {
        runs.push_back({curves_[c], searches_[c].best, seed, true});
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
    for (std::size_t c = 0; c < curves_.size(); ++c)
      timed.emplace_back(curves_[c], searches_[c].best);
    const std::vector<double> seconds =
        step_seconds(sweep_.task(seed), timed, seed, settings_.training, 40);
    std::vector<Evidence> evidence(curves_.size());
    for (std::size_t c = 0; c < curves_.size(); ++c) {
      Evidence& one = evidence[c];
      one.curve = curves_[c];
      one.lr = searches_[c].best;
      one.step_seconds = seconds[c];
      one.predicted_ratio = predicted_ratio(curves_[c]);
      for (const std::uint64_t s : settings_.reported_seeds()) {
        const auto best = sweep_.task(s).best_accuracy(parse_spec(curves_[c].method));
        if (best) one.best_accuracy.push_back(*best);
      }
      for (const RunKey& key : order_) {
        if (!(key.curve == curves_[c])) continue;
        one.all.push_back(&sweep_.result(key));
        if (key.test) one.reported.push_back(&sweep_.result(key));
      }
    }
    return compare(evidence, settings_.contrast_pairs(), settings_.margin / 100);
  }

  std::size_t runs() const { return order_.size(); }

 private:
  struct Search {
    std::map<double, double> scores;  // rate → mean final validation accuracy over the tuning seeds
    double best = 0;
  };

  bool tunes() const { return settings_.best_from.empty() && settings_.listed_rates().size() != 1; }

  std::vector<double> next_rates(const Search& search, const Curve& curve,
                                 const std::vector<double>& listed) const {
    if (!listed.empty()) return search.scores.empty() ? listed : std::vector<double>{};
    std::vector<double> rates;
    for (const int notch : next_notches(tried(search), curve.optimizer))
      rates.push_back(rate_at(notch));
    return rates;
  }

  static double best_rate(const Search& search, const std::vector<double>& listed) {
    if (listed.empty()) return rate_at(best_notch(tried(search)));
    const auto worse = [](const auto& a, const auto& b) { return a.second < b.second; };
    return std::max_element(search.scores.begin(), search.scores.end(), worse)->first;
  }

  static Tried tried(const Search& search) {
    Tried out;
    for (const auto& [rate, score] : search.scores) {
      out[static_cast<int>(std::lround(kPerDecade * std::log10(rate)))] = score;
    }
    return out;
  }

  double score(const Curve& curve, double rate) const {
    double sum = 0;
    for (const std::uint64_t seed : settings_.tuning_seeds()) {
      const Run& run = sweep_.result({curve, rate, seed, false});
      const Row* last = run.last("validation");
      if (run.diverged() || !last || !std::isfinite(last->accuracy.value_or(kDiverged)))
        return kDiverged;
      sum += *last->accuracy;
    }
    return sum / static_cast<double>(settings_.tune_seeds);
  }

  // How many runs there will be, judging by the usual length of a search.
  void expect(std::size_t wave) {
    const std::size_t usual = tunes() ? 9 * settings_.tune_seeds * curves_.size() : 0;
    const std::size_t tuned = std::max(order_.size() + wave, usual);
    progress_.expect(std::max(order_.size() + wave, tuned + settings_.seeds * curves_.size()));
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
  std::vector<Curve> curves_;
  std::vector<Search> searches_;
  std::vector<RunKey> order_;
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
  return {{"status", "complete"}, {"runs", runs}, {"wall_seconds", seconds}, {"table", lines}};
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
  const std::string no_picture = draw_plots(folder.path());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  folder.write("summary.json", summary(table, work.runs(), seconds.count()).dump(2) + "\n");
  progress.clear();
  fmt::print("{}", table_text(table, settings.margin / 100));
  std::fflush(stdout);
  if (settings.training.steps < 1000) {
    fmt::print(
        "{} steps are a short run: a method that starts slowly is still learning; see --steps 3000 "
        "before ranking\n",
        settings.training.steps);
  }
  if (!no_picture.empty()) fmt::print(stderr, "note: {}\n", no_picture);
  fmt::print(stderr, "run folder: {}\n", folder.path());
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
