#include "gradview/experiments/expressivity/expressivity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/progress.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/experiments/expressivity/claims.hpp"
#include "gradview/experiments/expressivity/fitting.hpp"
#include "gradview/experiments/expressivity/nulls.hpp"
#include "gradview/experiments/expressivity/targets.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::vector<std::string> projectors{"additive", "lora", "loha", "lokr:rank=1,decompose=none",
                                      "vera"};
  std::vector<std::string> budget_words{"1", "2", "4", "8"};
  std::vector<std::size_t> budgets;
  std::string task = "fashion", matrices = "fc2";
  std::size_t rows = 64, cols = 48, seeds = 5, restarts = 2, iterations = 250;
  std::size_t jobs = 1, threads = 1;
  FineTuneSettings training;
  TaskContext context;
  bool quiet = false;

  void declare(Flags& flags) {
    const Range positive{.least = 1, .most = 1e9};
    flags.list("projector", projectors, "SPEC",
               "methods with a fixed set of changes; those without a rank get it from the budget");
    flags.list("budgets", budget_words, "N",
               "numbers to train, in those of LoRA of rank 1 (m + n)");
    flags.count("rows", rows, {.least = 4, .most = 4096}, "m of the drawn changes");
    flags.count("cols", cols, {.least = 4, .most = 4096}, "n of the drawn changes");
    flags.text("task", task, "SPEC", "whose full fine-tune gives the real changes; none: left out");
    flags.text("matrices", matrices, "REGEX", "matrices of the task whose change is fitted");
    flags.text("shift", context.shift, "SHIFT", "of the task, as in compare");
    flags.text("data", context.data, "DIR", "folder of the data set");
    flags.text("cache", context.cache, "DIR", "folder for pre-trained networks");
    flags.count("steps", training.steps, positive, "of the full fine-tune, under Adam");
    flags.count("batch-size", training.batch_size, positive, "examples in a step of it");
    flags.number("lr", training.lr, {.least = 0, .open_below = true}, "of it, along a cosine");
    flags.count("seeds", seeds, {.least = 1, .most = 1000}, "draws of each change, fine-tunes");
    flags.count("restarts", restarts, {.least = 1, .most = 1000},
                "starts of a search, where the best fit has no closed form");
    flags.count("iterations", iterations, positive, "most steps of L-BFGS in a search");
    jobs = cores();
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "fits at the same time");
    flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside a fit");
    flags.flag("quiet", quiet, "no progress");
  }
  void finish() {
    for (const std::string& word : budget_words) {
      budgets.push_back(checked_count("--budgets", word, {.least = 1, .most = 4096}));
    }
    std::sort(budgets.begin(), budgets.end());
    if (std::adjacent_find(budgets.begin(), budgets.end()) != budgets.end()) {
      throw std::invalid_argument("--budgets names a number twice");
    }
    std::set<std::string> seen;
    const Goal probe = make_goal(drawn_change("rank-1", {8, 6}, 1));
    for (const std::string& text : projectors) {
      if (!seen.insert(text).second) {
        throw std::invalid_argument("--projector names '" + text + "' twice");
      }
      fit(parse_spec(text), probe, {.restarts = 1, .iterations = 1});
    }
    try {
      const std::regex checked(matrices);
    } catch (const std::regex_error&) {
      throw std::invalid_argument("--matrices '" + matrices + "' is not a regular expression");
    }
  }
};

struct Wanted {  // one change under one norm, of one seed
  std::string target, norm;
  std::uint64_t seed;
  Goal goal;
};

struct Line {  // of the table
  const Wanted* wanted;
  std::size_t budget;
  std::string method;
  Sized sized;
  Fit fit;
  std::optional<double> closed_form;
};

// The changes that full fine-tuning made, in both norms.
std::vector<Wanted> trained(const Settings& s, const TaskFamily& family, Progress& progress) {
  const std::regex chosen(s.matrices);
  std::vector<std::string> names;
  const std::shared_ptr<const Task> first = family.make(1);
  for (const auto& [name, value] : first->start()) {
    if (value.shape()[0] > 1) names.push_back(name);
  }
  if (std::none_of(names.begin(), names.end(),
                   [&](const std::string& name) { return std::regex_search(name, chosen); })) {
    throw std::invalid_argument("--matrices '" + s.matrices + "' matches no matrix; there are " +
                                join(names, ", "));
  }
  std::vector<FineTune> tunes(s.seeds);
  run_jobs(s.seeds, s.jobs, [&](std::size_t i) {
    tunes[i] = fine_tune(*family.make(i + 1), i + 1, s.training);
    progress.done(fmt::format("full fine-tune, seed {}", i + 1));
  });
  std::vector<Wanted> out;
  for (std::size_t i = 0; i < s.seeds; ++i) {
    progress.note(fmt::format("full fine-tune, seed {}: validation accuracy {:.1f} % → {:.1f} %",
                              i + 1, 100 * tunes[i].start_accuracy, 100 * tunes[i].accuracy));
    for (TrainedChange& change : tunes[i].changes) {
      if (!std::regex_search(change.name, chosen)) continue;
      out.push_back({change.name, "plain", i + 1, make_goal(change.change)});
      out.push_back(
          {change.name, "activations", i + 1, make_goal(change.change, std::move(change.sigma))});
    }
  }
  return out;
}

std::vector<Wanted> drawn(const Settings& s) {
  std::vector<Wanted> out;
  for (const TargetKind& kind : target_kinds()) {
    for (std::size_t seed = 1; seed <= s.seeds; ++seed) {
      out.push_back(
          {kind.name, "plain", seed, make_goal(drawn_change(kind.name, {s.rows, s.cols}, seed))});
    }
  }
  return out;
}

std::vector<Line> fit_all(const Settings& s, const std::vector<Wanted>& wanted,
                          Progress& progress) {
  std::vector<Line> lines;
  for (const Wanted& each : wanted) {
    const Shape shape = shape_of(each.goal.change);
    for (const std::string& method : s.projectors) {
      for (const std::size_t budget : s.budgets) {
        const auto sized = sized_for(parse_spec(method), shape, budget * (shape.rows + shape.cols));
        if (sized) lines.push_back({&each, budget, method, *sized, {}, {}});
      }
    }
  }
  progress.expect(progress.finished() + lines.size());
  run_jobs(lines.size(), s.jobs, [&](std::size_t i) {
    throw_if_stop_requested();
    Line& line = lines[i];
    const Goal& goal = line.wanted->goal;
    line.fit =
        fit(line.sized.spec, goal,
            {.seed = 1000 * line.wanted->seed, .restarts = s.restarts, .iterations = s.iterations});
    if (line.sized.spec.name == "additive") {
      const std::string* rank = line.sized.spec.find("rank");
      line.closed_form = additive_captures(goal, rank ? std::stoul(*rank) : 1);
    }
    progress.done(fmt::format("{} of {}, {}: {:.1f} %", to_string(line.sized.spec),
                              line.wanted->target, line.wanted->norm, 100 * line.fit.captured));
  });
  return lines;
}

std::string table_csv(const std::vector<Line>& lines) {
  std::string text =
      csv_line({"target", "norm", "rows", "cols", "seed", "budget", "method", "spec", "numbers",
                "way", "captured", "error", "least", "steps", "closed_form"});
  for (const Line& line : lines) {
    const auto [m, n] = shape_of(line.wanted->goal.change);
    text +=
        csv_line({line.wanted->target, line.wanted->norm, std::to_string(m), std::to_string(n),
                  std::to_string(line.wanted->seed), std::to_string(line.budget), line.method,
                  to_string(line.sized.spec), std::to_string(line.sized.numbers), line.fit.way,
                  exact(line.fit.captured), exact(std::sqrt(std::max(0.0, 1 - line.fit.captured))),
                  exact(line.fit.least), std::to_string(line.fit.steps),
                  line.closed_form ? exact(*line.closed_form) : ""});
  }
  return text;
}

std::string claims_csv(const std::vector<Claim>& claims) {
  std::string text = csv_line({"hypothesis", "statement", "target", "norm", "difference",
                               "difference_low", "difference_high", "p_holm", "verdict"});
  const auto cell = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
  for (const Claim& c : claims) {
    text +=
        csv_line({c.hypothesis, c.statement, c.target, c.norm, cell(c.difference.mean),
                  cell(c.difference.low), cell(c.difference.high), cell(c.adjusted_p), c.verdict});
  }
  return text;
}

std::string nulls_csv(const std::vector<Null>& nulls) {
  std::string text = csv_line(
      {"weight", "inputs", "method", "factor", "rank", "dead", "predicted", "weakest", "verdict"});
  for (const Null& n : nulls) {
    text += csv_line({n.weight, n.inputs, n.method, n.factor, std::to_string(n.rank),
                      std::to_string(n.dead), std::to_string(n.predicted), exact(n.weakest),
                      n.dead == n.predicted ? "holds" : "does not"});
  }
  return text;
}

double mean(const std::vector<double>& values) { return t_interval(values).mean; }

Captured gather(const std::vector<Line>& lines, double Fit::*value) {
  Captured out;
  for (const Line& line : lines) {
    out[{line.wanted->target, line.wanted->norm, line.method, line.budget}].push_back(line.fit.*
                                                                                      value);
  }
  return out;
}

void print_table(const Settings& s, const std::vector<Wanted>& wanted,
                 const std::vector<Line>& lines) {
  const Captured captured = gather(lines, &Fit::captured);
  const Captured least = gather(lines, &Fit::least);
  fmt::print(
      "captured energy in %, mean of {} seeds; behind a search, what its worst start fell "
      "short by; [numbers trained]\n\n",
      s.seeds);
  std::vector<std::pair<std::string, std::string>> places;
  for (const Wanted& each : wanted) {
    const std::pair place(each.target, each.norm);
    if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  }
  fmt::print("{:<12} {:<12} {:<28}", "change", "norm", "method");
  for (const std::size_t budget : s.budgets) {
    fmt::print("{:>24}", fmt::format("{}(m + n) numbers", budget));
  }
  fmt::print("\n");
  for (const auto& [target, norm] : places) {
    for (const std::string& method : s.projectors) {
      fmt::print("{:<12} {:<12} {:<28}", target, norm, method);
      for (const std::size_t budget : s.budgets) {
        const Cell cell{target, norm, method, budget};
        std::string text = "–";
        for (const Line& line : lines) {
          if (!(line.wanted->target == target && line.wanted->norm == norm &&
                line.method == method && line.budget == budget)) {
            continue;
          }
          const double most = mean(captured.at(cell));
          text = fmt::format("{:.2f}", 100 * most);
          if (line.fit.way == "search") {
            text += fmt::format(" −{:.2f}", 100 * (most - mean(least.at(cell))));
          }
          text += fmt::format(" [{}]", line.sized.numbers);
          break;
        }
        fmt::print("{:>24}", text);
      }
      fmt::print("\n");
    }
  }
}

void print_nulls(const std::vector<Null>& nulls) {
  fmt::print(
      "\ndirections of a factor that get no gradient\n{:<14}{:<20}{:<48}{:<8}{:>10}{:>11}"
      "{:>14}  verdict\n",
      "weight", "its inputs", "frames", "factor", "dead", "predicted", "weakest/‖G‖");
  for (const Null& n : nulls) {
    fmt::print("{:<14}{:<20}{:<48}{:<8}{:>10}{:>11}{:>14.1e}  {}\n", n.weight, n.inputs, n.method,
               n.factor, fmt::format("{} of {}", n.dead, n.rank), n.predicted, n.weakest,
               n.dead == n.predicted ? "holds" : "does not");
  }
}

void print_claims(const std::vector<Claim>& claims) {
  fmt::print(
      "\ndifference of captured energy in points, paired by seed, 95 % t interval; verdict after "
      "Holm over all {} claims of claims.csv\n",
      claims.size());
  for (const Claim& c : claims) {
    if (!c.shown) continue;
    const std::string half =
        std::isnan(c.difference.low)
            ? "–"
            : fmt::format("{:.2f}", 100 * (c.difference.high - c.difference.mean));
    fmt::print("{:<5}{:<50}{:<12} {:<12}{:>9.2f} ±{:<8}{}\n", c.hypothesis, c.statement, c.target,
               c.norm, 100 * c.difference.mean, half, c.verdict);
  }
  if (std::any_of(claims.begin(), claims.end(),
                  [](const Claim& c) { return c.hypothesis == "H12"; })) {
    fmt::print(
        "H12  loha wins where the spectrum is flat and only there (σ_i = 1/i or steeper): {}\n",
        flat_only(claims));
  }
}

// Largest distance between the fit of a linear method and its closed form; and between what the
// dimensions predict for changes that point anywhere and the mean that was found.
void print_theory(const Settings& s, const std::vector<Line>& lines) {
  double largest = -1;
  for (const Line& line : lines) {
    if (line.closed_form)
      largest = std::max(largest, std::abs(line.fit.captured - *line.closed_form));
  }
  if (largest < 0) return;
  fmt::print("\nadditive: fit and closed form differ by at most {:.1e}\n", largest);
  for (const std::size_t budget : s.budgets) {
    std::vector<double> found;
    std::size_t rank = 0;
    for (const Line& line : lines) {
      if (!line.closed_form || line.budget != budget || line.wanted->target == "bias-like" ||
          !(shape_of(line.wanted->goal.change) == Shape{s.rows, s.cols})) {
        continue;
      }
      const std::string* given = line.sized.spec.find("rank");
      rank = given ? std::stoul(*given) : 1;
      found.push_back(line.fit.captured);
    }
    if (found.empty()) continue;
    const Interval i = t_interval(found);
    fmt::print(
        "additive of rank {} on drawn changes without a bias: {:.2f} % ±{:.2f}, theory "
        "1 − (1 − r/m)(1 − r/n) = {:.2f} %\n",
        rank, 100 * i.mean, 100 * (i.high - i.mean),
        100 * additive_captures_of_any({s.rows, s.cols}, rank));
  }
}

int run(int argc, const char* const* argv) {
  const auto begin = std::chrono::steady_clock::now();
  Settings s;
  FolderFlags folder_flags;
  Flags flags("expressivity",
              "how much of a wanted change each method can express with as many numbers");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  if (folder_flags.resume)
    throw std::invalid_argument("--resume: expressivity takes minutes and has nothing to resume");
  s.finish();
  set_threads(s.threads);

  RunFolder folder("expressivity", folder_flags);
  Progress progress(s.quiet);
  Json metadata = machine_metadata("expressivity");
  std::vector<Wanted> wanted = drawn(s);
  if (s.task != "none") {
    const TaskFamily family = prepare_task(parse_spec(s.task), s.context);
    for (const auto& [key, value] : family.record) metadata["task"][key] = value;
    progress.expect(s.seeds);
    for (Wanted& each : trained(s, family, progress)) wanted.push_back(std::move(each));
  }
  std::vector<std::size_t> seeds;
  for (std::size_t seed = 1; seed <= s.seeds; ++seed) seeds.push_back(seed);
  metadata["seeds"] = seeds;
  folder.begin(flags.resolved(), metadata);
  const std::vector<Line> lines = fit_all(s, wanted, progress);
  if (lines.empty()) {
    throw std::invalid_argument("no method of this call trains so few numbers as --budgets allow");
  }
  const std::vector<Null> nulls = measure_nulls(1);
  const std::vector<Claim> claims = judge(gather(lines, &Fit::captured));
  folder.append_rows("table.csv", table_csv(lines));
  folder.append_rows("nulls.csv", nulls_csv(nulls));
  folder.append_rows("claims.csv", claims_csv(claims));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  Json verdicts = Json::array();
  for (const Claim& c : claims) {
    verdicts.push_back({{"hypothesis", c.hypothesis},
                        {"statement", c.statement},
                        {"target", c.target},
                        {"norm", c.norm},
                        {"difference", c.difference.mean},
                        {"verdict", c.verdict}});
  }
  const Json summary{{"fits", lines.size()},
                     {"wall_seconds", seconds.count()},
                     {"claims", verdicts},
                     {"loha_only_where_flat", flat_only(claims)}};
  finish_run(folder, summary, s.quiet, [&] {
    progress.clear();
    print_table(s, wanted, lines);
    print_theory(s, lines);
    print_nulls(nulls);
    print_claims(claims);
  });
  return 0;
}

}  // namespace

int expressivity_main(int argc, const char* const* argv) {
  return run_program("expressivity", [&] { return run(argc, argv); });
}

}  // namespace gradview
