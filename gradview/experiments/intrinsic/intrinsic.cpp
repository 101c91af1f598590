#include "gradview/experiments/intrinsic/intrinsic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/intrinsic/crossing.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Settings {
  std::vector<std::string> projectors{"random:family=haar,refresh_every=0",
                                      "random:family=haar,refresh_every=0,sides=left",
                                      "random:family=haar,refresh_every=0,sides=right", "lora"};
  std::vector<std::string> rank_words{"1", "2", "4", "8", "16"};
  std::vector<std::size_t> ranks;
  std::string task = "fashion", optimizer = "adam", lr;
  std::vector<double> rates;
  double part = 90, low = 1;  // %
  Seeds seeds{.report = 5, .tune = 1};
  std::size_t jobs = 1, threads = 1;
  TrainingSettings training;
  TaskContext context;
  bool refine = false, quiet = false;

  void declare(Flags& flags) {
    const Range positive{.least = 1, .most = 1e9};
    flags.list("projector", projectors, "SPEC",
               "methods without their rank; the first is what the verdict is about");
    flags.list("ranks", rank_words, "N", "ranks of each");
    flags.text("optimizer", optimizer, "SPEC", "for all, full included");
    flags.number("part", part, {.least = 0, .most = 100, .open_below = true},
                 "of full's performance that is to be reached, in %");
    flags.number("low", low, {.least = 0, .most = 100, .open_below = true},
                 "share of the parameters below which a number of directions counts as low, in %");
    flags.text("task", task, "SPEC", "what is learned; see compare --list-tasks");
    flags.text("shift", context.shift, "SHIFT", "of the task, as in compare");
    flags.text("data", context.data, "DIR", "folder of the data set");
    flags.text("cache", context.cache, "DIR", "folder for pre-trained networks");
    flags.count("steps", training.steps, positive, "training steps");
    flags.count("batch-size", training.batch_size, positive, "examples in a step");
    flags.text("schedule", training.schedule, "SPEC",
               "constant | linear | cosine, with :warmup=N,final=F");
    flags.text("lr", lr, "X|A,B,C",
               "one rate, or exactly these to choose from; without it each curve is tuned");
    flags.flag("refine", refine, "tune in steps of 10^(1/8) round the best half-decade");
    flags.count("seeds", seeds.report, {.least = 1, .most = 1000}, "reported seeds");
    flags.count("tune-seeds", seeds.tune, {.least = 1, .most = 1000},
                "further seeds that rates are chosen on");
    jobs = cores();
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside a run");
    flags.flag("quiet", quiet, "no progress");
  }

  void finish() {
    for (const std::string& word : rank_words) {
      ranks.push_back(checked_count("--ranks", word, {.least = 1, .most = 65536}));
    }
    std::sort(ranks.begin(), ranks.end());
    if (std::adjacent_find(ranks.begin(), ranks.end()) != ranks.end()) {
      throw std::invalid_argument("--ranks names a rank twice");
    }
    std::set<std::string> seen;
    for (const std::string& text : projectors) {
      if (!seen.insert(text).second) {
        throw std::invalid_argument("--projector names '" + text + "' twice");
      }
      const Spec spec = parse_spec(text);
      if (spec.find("rank") != nullptr) {
        throw std::invalid_argument("--projector '" + text +
                                    "' names a rank; ranks are given with --ranks");
      }
      if (asked_rank(spec) == 0) {
        throw std::invalid_argument("--projector '" + text + "' has no rank to sweep");
      }
      check_projector(with_rank(text, 1));
    }
    make_optimizer_spec(parse_spec(optimizer));
    require_schedule_fits(training.schedule, training.steps);
    if (!lr.empty()) {
      for (const std::string& word : split(lr, ',')) {
        rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
      }
    }
    training.eval_every = training.steps;
  }
  static Spec with_rank(const std::string& text, std::size_t rank) {
    return with_options(parse_spec(text), {{"rank", std::to_string(rank)}});
  }
};

struct Point {  // one family at one rank, against full under the same seeds
  std::string family;
  std::size_t rank;
  TunedCurve curve;
  std::size_t directions;
  std::vector<double> accuracy, accuracy_ratio, gain_ratio;  // per seed; NaN where it diverged
};

double test_accuracy(const Run& run) {
  const Row* row = run.last("test");
  return run.diverged() || !row ? kNaN : row->accuracy.value_or(kNaN);
}

struct Found {  // of one family by one measure
  std::string family, measure;
  Crossing crossing;
  double largest;         // number of directions that was tried
  std::size_t safe_rank;  // smallest rank whose whole interval lies at the part or above; 0: none
  std::string verdict;
};

class Study {
 public:
  Study(const Settings& s, const TaskFamily& family, RunFolder& folder, Progress& progress)
      : s_(s), progress_(progress), sweep_(family, s.training, s.jobs, folder, progress) {}

  void run() {
    std::vector<Curve> curves{{"full", s_.optimizer}};
    std::vector<std::pair<std::string, std::size_t>> places;
    const auto add = [&](const std::string& family, std::size_t rank) {
      const Curve curve{to_string(Settings::with_rank(family, rank)), s_.optimizer};
      curves.push_back(curve);
      places.emplace_back(family, rank);
    };
    for (const std::string& family : s_.projectors) {
      for (const std::size_t rank : s_.ranks) add(family, rank);
    }
    sweep_.prepare(s_.seeds.all());
    for (const std::uint64_t seed : s_.seeds.reported()) {
      const Task& task = sweep_.task(seed);
      start_.push_back(task.evaluate(task.start(), Split::test).accuracy);
    }
    const std::vector<TunedCurve> tuned = run_tuned(
        sweep_, progress_, curves, {.seeds = s_.seeds, .rates = s_.rates, .refine = s_.refine});
    full_ = over_seeds(tuned[0], test_accuracy);
    full_lr_ = tuned[0].lr;
    total_ = tuned[0].runs[0]->rows.back().trainable;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const TunedCurve& curve = tuned[i + 1];
      Point point{places[i].first,
                  places[i].second,
                  curve,
                  curve.runs[0]->rows.back().trainable,
                  over_seeds(curve, test_accuracy),
                  {},
                  {}};
      for (std::size_t k = 0; k < full_.size(); ++k) {
        point.accuracy_ratio.push_back(point.accuracy[k] / full_[k]);
        point.gain_ratio.push_back((point.accuracy[k] - start_[k]) / (full_[k] - start_[k]));
      }
      points_.push_back(std::move(point));
    }
  }

  std::vector<Found> found() const {
    std::vector<Found> out;
    for (const std::string& family : s_.projectors) {
      for (const bool gain : {false, true}) {
        out.push_back(find(family, gain));
      }
    }
    return out;
  }

  std::string table_csv() const {
    std::string text =
        csv_line({"method", "rank", "optimizer", "lr", "seed", "directions", "share", "accuracy",
                  "accuracy_ratio", "accuracy_ratio_low", "accuracy_ratio_high", "gain_ratio",
                  "gain_ratio_low", "gain_ratio_high"});
    const auto cell = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
    const auto line = [&](const std::string& method, std::size_t rank, double lr,
                          const std::string& seed, std::size_t directions, double accuracy,
                          const Interval& ratio, const Interval& gain) {
      text += csv_line({method, rank > 0 ? std::to_string(rank) : "", s_.optimizer, exact(lr), seed,
                        std::to_string(directions), exact(share(static_cast<double>(directions))),
                        cell(accuracy), cell(ratio.mean), cell(ratio.low), cell(ratio.high),
                        cell(gain.mean), cell(gain.low), cell(gain.high)});
    };
    for (std::size_t k = 0; k < full_.size(); ++k) {
      const std::string seed = std::to_string(s_.seeds.reported()[k]);
      line("start", 0, 0, seed, 0, start_[k], {start_[k] / full_[k], kNaN, kNaN}, {0, kNaN, kNaN});
      line("full", 0, full_lr_, seed, total_, full_[k], {1, kNaN, kNaN}, {1, kNaN, kNaN});
    }
    for (const Point& p : points_) {
      line(p.family, p.rank, p.curve.lr, "all", p.directions, t_interval(p.accuracy).mean,
           t_interval(p.accuracy_ratio), t_interval(p.gain_ratio));
      for (std::size_t k = 0; k < full_.size(); ++k) {
        line(p.family, p.rank, p.curve.lr, std::to_string(s_.seeds.reported()[k]), p.directions,
             p.accuracy[k], {p.accuracy_ratio[k], kNaN, kNaN}, {p.gain_ratio[k], kNaN, kNaN});
      }
    }
    return text;
  }

  void print(const std::vector<Found>& found) const {
    const auto percent = [](const Interval& i) {
      return std::isnan(i.low)
                 ? fmt::format("{:.1f}", 100 * i.mean)
                 : fmt::format("{:.1f} ±{:.1f}", 100 * i.mean, 100 * (i.high - i.mean));
    };
    fmt::print("{:<48}{:>5}{:>12}{:>9}{:>10}{:>18}{:>22}{:>18}\n", "method", "rank", "directions",
               "share %", "lr", "test accuracy %", "accuracy / full %", "gain / full %");
    fmt::print("{:<48}{:>5}{:>12}{:>9}{:>10}{:>18}{:>22}{:>18}\n", "start", "", 0, "0", "",
               percent(t_interval(start_)), "", "0");
    fmt::print("{:<48}{:>5}{:>12}{:>9}{:>10.2g}{:>18}{:>22}{:>18}\n", "full", "", total_, "100",
               full_lr_, percent(t_interval(full_)), "100", "100");
    for (const Point& p : points_) {
      fmt::print("{:<48}{:>5}{:>12}{:>9.2f}{:>10.2g}{:>18}{:>22}{:>18}\n", p.family, p.rank,
                 p.directions, 100 * share(static_cast<double>(p.directions)), p.curve.lr,
                 percent(t_interval(p.accuracy)), percent(t_interval(p.accuracy_ratio)),
                 percent(t_interval(p.gain_ratio)));
    }
    fmt::print(
        "\ndirections that reach {:g} % of full's, 95 % t interval over {} seeds (geometric, "
        "between ranks by a straight line over log directions)\n",
        s_.part, full_.size());
    for (const Found& f : found) {
      fmt::print("{:<48}{:<9}{}\n", f.family, f.measure, words(f));
    }
    fmt::print(
        "verdict: are fewer than {:g} % of the {} parameters enough? The accuracy's part is as Li "
        "et al. define d90; the gain's leaves out what the start can do already\n",
        s_.low, total_);
  }

  Json json(const std::vector<Found>& found) const {
    Json out = Json::array();
    const auto finite = [](double x) { return std::isfinite(x) ? Json(x) : Json(exact(x)); };
    for (const Found& f : found) {
      out.push_back({{"method", f.family},
                     {"measure", f.measure},
                     {"directions", finite(f.crossing.directions.mean)},
                     {"low", finite(f.crossing.directions.low)},
                     {"high", finite(f.crossing.directions.high)},
                     {"share", finite(share(f.crossing.directions.mean))},
                     {"seeds_missed", f.crossing.missed},
                     {"seeds_at_first_rank", f.crossing.at_once},
                     {"safe_rank", f.safe_rank},
                     {"verdict", f.verdict}});
    }
    return out;
  }

  std::string crossings_csv(const std::vector<Found>& found) const {
    std::string text =
        csv_line({"method", "measure", "part", "directions", "directions_low", "directions_high",
                  "share", "seeds", "seeds_missed", "seeds_at_first_rank", "safe_rank", "verdict"});
    const auto cell = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
    for (const Found& f : found) {
      const Interval& d = f.crossing.directions;
      text += csv_line({f.family, f.measure, exact(s_.part / 100), cell(d.mean), cell(d.low),
                        cell(d.high), cell(share(d.mean)), std::to_string(f.crossing.seeds),
                        std::to_string(f.crossing.missed), std::to_string(f.crossing.at_once),
                        f.safe_rank > 0 ? std::to_string(f.safe_rank) : "", f.verdict});
    }
    return text;
  }

  bool all_diverged() const {
    return std::all_of(points_.begin(), points_.end(), [](const Point& p) {
      return std::all_of(p.accuracy.begin(), p.accuracy.end(),
                         [](double x) { return std::isnan(x); });
    });
  }

 private:
  double share(double directions) const { return directions / static_cast<double>(total_); }

  Found find(const std::string& family, bool gain) const {
    Found out{family, gain ? "gain" : "accuracy", {}, 0, 0, ""};
    std::vector<std::vector<Reached>> curves(full_.size());
    double first = 0;
    for (const Point& p : points_) {
      if (p.family != family) continue;
      const auto directions = static_cast<double>(p.directions);
      const std::vector<double>& ratio = gain ? p.gain_ratio : p.accuracy_ratio;
      for (std::size_t k = 0; k < curves.size(); ++k) curves[k].push_back({directions, ratio[k]});
      if (first == 0) first = directions;
      out.largest = directions;
      if (out.safe_rank == 0 && t_interval(ratio).low >= s_.part / 100) out.safe_rank = p.rank;
    }
    std::vector<double> crossings;
    for (const auto& curve : curves) crossings.push_back(crossing(curve, s_.part / 100));
    out.crossing = summarise(crossings, first);
    out.verdict = judge_low(out.crossing, s_.low / 100 * static_cast<double>(total_), out.largest);
    return out;
  }

  std::string words(const Found& f) const {
    const Interval& d = f.crossing.directions;
    std::string text;
    if (f.crossing.missed > 0) {
      text = fmt::format("not reached with {:.0f} by {} of {} seeds", f.largest, f.crossing.missed,
                         f.crossing.seeds);
    } else if (std::isnan(d.low)) {
      text = fmt::format("{:.0f} = {:.2f} %", d.mean, 100 * share(d.mean));
    } else {
      text = fmt::format("{:.0f} in [{:.0f}, {:.0f}] = {:.2f} % in [{:.2f}, {:.2f}]", d.mean, d.low,
                         d.high, 100 * share(d.mean), 100 * share(d.low), 100 * share(d.high));
    }
    if (f.crossing.at_once > 0) {
      text += fmt::format("; at the first rank already: {} of {} seeds", f.crossing.at_once,
                          f.crossing.seeds);
    }
    text += f.safe_rank > 0 ? fmt::format("; whole interval above from rank {}", f.safe_rank)
                            : "; at no rank with its whole interval";
    return text + ": " + f.verdict;
  }

  const Settings& s_;
  Progress& progress_;
  Sweep sweep_;
  std::vector<Point> points_;
  std::vector<double> start_, full_;  // test accuracy per seed
  double full_lr_ = 0;
  std::size_t total_ = 0;  // parameters that full trains
};

int run(int argc, const char* const* argv) {
  const auto begin = std::chrono::steady_clock::now();
  Settings s;
  FolderFlags folder_flags;
  Flags flags("intrinsic",
              "the smallest number of trained directions that does nearly what full rank does");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  if (folder_flags.resume)
    throw std::invalid_argument("--resume: intrinsic takes minutes and has nothing to resume");
  s.finish();
  set_threads(s.threads);

  RunFolder folder("intrinsic", folder_flags);
  Progress progress(s.quiet);
  const TaskFamily family = prepare_task(parse_spec(s.task), s.context);
  Json metadata = machine_metadata("intrinsic");
  for (const auto& [key, value] : family.record) metadata["task"][key] = value;
  metadata["seeds"] = s.seeds.reported();
  metadata["tuning_seeds"] = s.seeds.tuning();
  folder.begin(flags.resolved(), metadata);
  Study study(s, family, folder, progress);
  study.run();
  const std::vector<Found> found = study.found();
  folder.append_rows("table.csv", study.table_csv());
  folder.append_rows("crossings.csv", study.crossings_csv(found));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  const Json summary{
      {"wall_seconds", seconds.count()}, {"part", s.part / 100}, {"crossings", study.json(found)}};
  finish_run(folder, summary, s.quiet, [&] {
    progress.clear();
    study.print(found);
  });
  if (study.all_diverged())
    throw DivergedError("every run diverged; see " + folder.file("metrics.csv"));
  return 0;
}

}  // namespace

int intrinsic_main(int argc, const char* const* argv) {
  return run_program("intrinsic", [&] { return run(argc, argv); });
}

}  // namespace gradview
