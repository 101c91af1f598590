#include "gradview/experiments/moments/moments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/plots.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/moments/moments_grid.hpp"
#include "gradview/experiments/moments/moments_theory.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::vector<std::string> tasks{"quadratic", "fashion"}, frames{"gaussian", "haar", "galore"},
      ranks{"1", "4"}, intervals{"1", "20", "200"};
  std::string quadratic = "quadratic", fashion = "fashion";
  TaskContext context;
  std::size_t steps = 1500, fashion_steps = 150, batch_size = 128;
  std::size_t seeds = 5, tune_seeds = 2, fashion_seeds = 3, samples = 4000;
  double margin = 1.1;
  bool whole_grid = false, quiet = false;
  std::size_t jobs = cores(), threads = 1;

  void declare(Flags& flags) {
    const Range some{.least = 1, .most = 1e9};
    flags.list("task", tasks, "NAME", "quadratic, fashion, or both");
    flags.list("frames", frames, "NAME", "gaussian, haar, galore");
    flags.list("rank", ranks, "R", "of the frames");
    flags.list(
        "refresh-every", intervals, "K",
        "steps between two choices of the frames, of the quadratic; in proportion elsewhere");
    flags.text("quadratic", quadratic, "SPEC", "the quadratic: rows, cols, condition, noise");
    flags.text("fashion", fashion, "SPEC", "the network and its pre-training");
    flags.text("data", context.data, "DIR",
               "folder of Fashion-MNIST (if not given: where its package puts it)");
    flags.text("cache", context.cache, "DIR",
               "folder for pre-trained networks (if not given: the user's cache)");
    flags.count("steps", steps, some, "training steps on the quadratic");
    flags.count("fashion-steps", fashion_steps, some, "training steps on Fashion-MNIST");
    flags.count("batch-size", batch_size, some, "images in a step");
    flags.count("seeds", seeds, {.least = 2, .most = 1000}, "reported seeds of the quadratic");
    flags.count("fashion-seeds", fashion_seeds, {.least = 2, .most = 1000},
                "reported seeds of Fashion-MNIST");
    flags.count("tune-seeds", tune_seeds, {.least = 1, .most = 1000},
                "further seeds that rates are chosen on");
    flags.count("samples", samples, {.least = 100, .most = 1e9},
                "draws behind each check of the theory");
    flags.number("margin", margin, {.least = 1, .open_below = true},
                 "losses within this factor of each other count as equal");
    flags.flag("whole-grid", whole_grid,
               "all ranks, frames and places on Fashion-MNIST too, not the larger rank with "
               "gaussian frames alone");
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside a run");
    flags.flag("quiet", quiet, "no progress");
  }
};

std::vector<std::size_t> counts(const std::string& flag, const std::vector<std::string>& words) {
  std::vector<std::size_t> values;
  for (const std::string& word : words)
    values.push_back(checked_count(flag, word, {.least = 1, .most = 1e6}));
  std::sort(values.begin(), values.end());
  if (values.empty() || std::adjacent_find(values.begin(), values.end()) != values.end()) {
    throw std::invalid_argument(flag + " takes different numbers, at least one");
  }
  return values;
}

void require_names(const std::string& flag, const std::vector<std::string>& given,
                   const std::vector<std::string>& known) {
  if (given.empty()) throw std::invalid_argument(flag + " needs one of " + join(known, ", "));
  for (const std::string& name : given) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw std::invalid_argument(flag + ": no '" + name + "'; there are " + join(known, ", ") +
                                  did_you_mean(name, known));
    }
  }
}

// One task: its runs in a folder of their own, and its part of the table.
struct Study {
  std::string name;
  Spec task;
  TaskContext context;
  Grid grid;
  TrainingSettings training;
  TuneSettings tuning;
  std::vector<Point> points = {};
  std::vector<Claim> claims = {}, earlier = {};
  std::unique_ptr<Progress> progress = {};
  std::unique_ptr<RunFolder> folder = {};
  std::unique_ptr<Sweep> sweep = {};  // the results live in it
};

// Marks what the Optimizer refuses, with its reason and the theory's threshold.
void mark_refused(Study& study, const Task& task) {
  for (Point& point : study.points) {
    Weights weights = task.start();
    Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(point.curve.optimizer)),
                         .steps = study.training.steps});
    const auto planned =
        plan(adaptation_of(point.curve.method, study.training), weights, task.before_softmax());
    try {
      apply(planned, weights, 1, optimizer);
    } catch (const std::invalid_argument& refusal) {
      if (point.cell.transport != "project") throw;
      point.refused = refusal.what();
    }
    if (point.cell.transport != "project") continue;
    double growth = 1;
    for (const Planned& each : planned) {
      if (!each.projector || each.vector) continue;
      const Site site{.name = each.name, .weight = task.start()[each.name], .seed = 1};
      growth = std::max(growth, make_projector(*each.projector, site)->transfer_growth());
    }
    const OptimizerSpec spec = make_optimizer_spec(parse_spec(point.curve.optimizer));
    point.threshold = std::log(growth) / (-2 * std::log(spec.rule.memory));
  }
}

void run_study(Study& study, const Settings& s, const TaskFamily& family, const RunFolder& parent,
               const Json& options) {
  study.progress = std::make_unique<Progress>(s.quiet);
  study.folder = std::make_unique<RunFolder>(
      "moments", FolderFlags{.out = parent.file(study.name), .overwrite = true, .resume = false});
  study.folder->begin(options, machine_metadata("moments-runs"));
  study.sweep =
      std::make_unique<Sweep>(family, study.training, s.jobs, *study.folder, *study.progress);
  study.sweep->prepare(study.tuning.seeds.all());
  study.points = points(study.grid);
  mark_refused(study, study.sweep->task(1));
  std::vector<Curve> curves;
  for (const Point& point : study.points) {
    if (point.refused.empty()) curves.push_back(point.curve);
  }
  study.progress->note(fmt::format("{}: {} curves", study.name, curves.size()));
  std::vector<TunedCurve> results = run_tuned(*study.sweep, *study.progress, curves, study.tuning);
  std::size_t next = 0;
  for (Point& point : study.points) {
    if (point.refused.empty()) point.result = std::move(results[next++]);
  }
  study.claims = judge_moments(study.points, study.grid, s.margin);
  if (study.name == "quadratic") study.earlier = compare_with_earlier(study.points, s.margin);
  study.progress->clear();
}

std::string status(const Point& point) {
  if (!point.refused.empty()) return "refused";
  return point.diverged() > 0
             ? fmt::format("{} of {} diverged", point.diverged(), point.result->runs.size())
             : "ok";
}

std::string table_csv(const std::vector<Study>& studies) {
  std::string text = csv_line({"task", "frames", "rank", "refresh_every", "moments", "transport",
                               "method", "optimizer", "status", "stable_above", "lr", "loss",
                               "loss_low", "loss_high", "accuracy", "earlier_loss", "losses"});
  for (const Study& study : studies) {
    for (const Point& p : study.points) {
      const bool there = p.result.has_value();
      const Interval loss = there ? p.loss() : Interval{NAN, NAN, NAN};
      std::vector<std::string> each;
      if (there) {
        for (const double log : p.logs()) each.push_back(exact(std::pow(10, log)));
      }
      const auto was = study.name == "quadratic" ? earlier_loss(p) : std::nullopt;
      text += csv_line({study.name, p.frames, std::to_string(p.rank), std::to_string(p.every),
                        p.cell.moments, p.cell.transport, p.curve.method, p.curve.optimizer,
                        status(p), std::isnan(p.threshold) ? "" : exact(p.threshold),
                        there ? exact(p.result->lr) : "", exact(loss.mean), exact(loss.low),
                        exact(loss.high), there ? exact(p.accuracy()) : "", was ? exact(*was) : "",
                        join(each, ";")});
    }
  }
  return text;
}

std::string checks_csv(const std::vector<TheoryCheck>& checks) {
  std::string text =
      csv_line({"claim", "family", "rank", "measured", "predicted", "standard_error", "verdict"});
  for (const TheoryCheck& c : checks) {
    text += csv_line({c.claim, c.family, std::to_string(c.rank), exact(c.measured),
                      exact(c.predicted), exact(c.standard_error), c.holds() ? "ok" : "OFF"});
  }
  return text;
}

// Loss with the half width of its interval, in percent or as a factor.
std::string shown(const Point& p) {
  if (!p.refused.empty()) return fmt::format("refused (κ>{:.1f})", p.threshold);
  if (p.diverged() > 0) return fmt::format("{}/{} diverged", p.diverged(), p.result->runs.size());
  const Interval loss = p.loss();
  const double ratio = loss.high / loss.mean;
  return ratio < 2 ? fmt::format("{:.4g} ±{:.0f}%", loss.mean, 100 * (ratio - 1))
                   : fmt::format("{:.3g} ×÷{:.2g}", loss.mean, ratio);
}

void print_study(const Study& study) {
  fmt::print("{}: final loss, geometric mean of {} seeds, with the 95 % interval's half width\n",
             study.name, study.tuning.seeds.report);
  for (const Point& p : study.points) {
    if (p.frames == "full")
      fmt::print("  full {:<6}{:<18}accuracy {:.4f}\n", p.cell.moments, shown(p), p.accuracy());
  }
  for (const std::string& frames : study.grid.frames) {
    fmt::print("  {:<9}{:<9}", frames, "");
    for (const std::size_t rank : study.grid.ranks) {
      for (const std::size_t every : study.grid.intervals)
        fmt::print("{:<18}", fmt::format("r={} κ={}", rank, every));
    }
    for (const Cell& cell : study.grid.cells) {
      fmt::print("\n  {:<9}{:<9}", cell.moments, cell.transport);
      for (const Point& p : study.points) {
        if (p.frames == frames && p.cell == cell) fmt::print("{:<18}", shown(p));
      }
    }
    fmt::print("\n");
  }
}

Json as_json(const std::vector<Claim>& claims) {
  Json out = Json::array();
  for (const Claim& c : claims)
    out.push_back({{"claim", c.text}, {"verdict", c.verdict}, {"evidence", c.evidence}});
  return out;
}

std::vector<Study> make_studies(const Settings& s) {
  std::vector<Study> studies;
  const auto ranks = counts("--rank", s.ranks), intervals = counts("--refresh-every", s.intervals);
  for (const std::string& task : s.tasks) {
    Study study;
    study.name = task;
    study.grid = {s.frames, ranks, intervals, moment_cells()};
    study.tuning.seeds = {.report = s.seeds, .tune = s.tune_seeds};
    study.tuning.judge = final_loss;
    study.task = parse_spec(task == "quadratic" ? s.quadratic : s.fashion);
    study.training.steps = task == "quadratic" ? s.steps : s.fashion_steps;
    study.training.batch_size = task == "quadratic" ? 1 : s.batch_size;
    study.training.eval_every = study.training.steps;
    if (task == "fashion") {
      study.context = s.context;
      study.tuning.seeds = {.report = s.fashion_seeds, .tune = s.tune_seeds};
      study.tuning.refine = s.whole_grid;
      study.grid.intervals.clear();
      for (const std::size_t every : intervals) {
        const std::size_t scaled = std::max<std::size_t>(1, every * s.fashion_steps / s.steps);
        if (study.grid.intervals.empty() || study.grid.intervals.back() != scaled)
          study.grid.intervals.push_back(scaled);
      }
      if (!s.whole_grid) {
        study.grid.ranks = {ranks.back()};
        study.grid.frames = {s.frames.front()};
      }
    }
    studies.push_back(std::move(study));
  }
  return studies;
}

int run(int argc, const char* const* argv) {
  const auto begin = std::chrono::steady_clock::now();
  Settings s;
  FolderFlags folder_flags;
  Flags flags("moments", "where Adam's moments live and what they become when the subspace moves");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  if (folder_flags.resume) throw std::invalid_argument("--resume: moments has nothing to resume");
  require_names("--task", s.tasks, {"quadratic", "fashion"});
  require_names("--frames", s.frames, {"gaussian", "haar", "galore"});
  std::vector<Study> studies = make_studies(s);
  set_threads(s.threads);

  RunFolder folder("moments", folder_flags);
  Progress progress(s.quiet);
  std::vector<TaskFamily> families;
  for (const Study& study : studies) families.push_back(prepare_task(study.task, study.context));
  Json metadata = machine_metadata("moments");
  for (std::size_t i = 0; i < studies.size(); ++i) {
    for (const auto& [key, value] : families[i].record)
      metadata["task"][studies[i].name][key] = value;
    metadata["seeds"][studies[i].name] = studies[i].tuning.seeds.reported();
    metadata["tuning_seeds"][studies[i].name] = studies[i].tuning.seeds.tuning();
  }
  folder.begin(flags.resolved(), metadata);
  progress.note("measuring the theory of moving coordinates");
  const std::vector<TheoryCheck> checks = check_moments_theory(
      {.samples = s.samples, .jobs = s.jobs, .ranks = counts("--rank", s.ranks)});
  folder.append_rows("theory.csv", checks_csv(checks));
  for (std::size_t i = 0; i < studies.size(); ++i) {
    run_study(studies[i], s, families[i], folder, flags.resolved());
  }
  progress.clear();
  folder.write("table.csv", table_csv(studies));
  const std::string no_picture = draw_plots(folder.path());

  Json summary{{"status", "complete"}};
  fmt::print("{:<50}{:<12}{:>4}{:>13}{:>13}{:>12}  verdict\n", "theory", "family", "rank",
             "measured", "predicted", "std error");
  std::size_t off = 0;
  for (const TheoryCheck& c : checks) {
    off += !c.holds();
    fmt::print("{:<50}{:<12}{:>4}{:>13.5g}{:>13.5g}{:>12.1e}  {}\n", c.claim, c.family, c.rank,
               c.measured, c.predicted, c.standard_error, c.holds() ? "ok" : "OFF");
  }
  summary["theory"] = {{"checks", checks.size()}, {"off", off}};
  bool all_diverged = true;
  for (const Study& study : studies) {
    print_study(study);
    for (const auto& claims : {study.claims, study.earlier}) {
      for (const Claim& c : claims) {
        fmt::print("{:<10} {}\n", c.verdict, c.text);
        if (!c.evidence.empty()) fmt::print("           {}\n", c.evidence);
      }
    }
    summary[study.name] = {{"claims", as_json(study.claims)}, {"earlier", as_json(study.earlier)}};
    for (const Point& p : study.points)
      all_diverged = all_diverged && (!p.result || p.diverged() == p.result->runs.size());
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  summary["wall_seconds"] = seconds.count();
  folder.write("summary.json", summary.dump(2) + "\n");
  if (!no_picture.empty() && !s.quiet) fmt::print(stderr, "note: {}\n", no_picture);
  if (!s.quiet) fmt::print(stderr, "run folder: {}\n", folder.path());
  if (off > 0) {
    throw CheckFailed(
        fmt::format("{} of {} checks of the theory are off by more than five standard errors", off,
                    checks.size()));
  }
  if (all_diverged) throw DivergedError("every run diverged; see " + folder.file("table.csv"));
  return 0;
}

}  // namespace

int moments_main(int argc, const char* const* argv) {
  return run_program("moments", [&] { return run(argc, argv); });
}

}  // namespace gradview
