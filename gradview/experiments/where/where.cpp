#include "gradview/experiments/where/where.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/experiments/where/parts.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Settings {
  std::string task = "bytes", optimizer = "adam", lr, measure = "accuracy";
  std::vector<std::string> places{"q",   "k",       "v",           "o",    "q,k",
                                  "q,v", "q,k,v,o", "q,k,v,o,mlp", "norm", "embed"};
  std::vector<std::string> rank_places{"q", "q,v", "q,k,v,o"}, ranks{"1", "2", "8", "64"};
  std::size_t budget_rank = 8, jobs = cores();
  double scale = 2, margin = 0.5;
  Seeds seeds{.report = 5, .tune = 1};
  TrainingSettings training;
  TaskContext context;
  bool quiet = false, quick = false, refine = false;

  void declare(Flags& flags) {
    const Range some{.least = 1, .most = 1e9};
    training.steps = 100;
    training.batch_size = 16;
    flags.text("task", task, "SPEC", "a transformer to adapt: texts or bytes, with options");
    flags.text("shift", context.shift, "SHIFT", "as the task has it");
    flags.text("data", context.data, "PATH", "of the task");
    flags.text("cache", context.cache, "DIR", "for pre-trained starts");
    flags.text("also", training.also, "REGEX", "trained in full in every row, such as a head");
    flags.text("optimizer", optimizer, "SPEC", "update rule of all rows");
    flags.choice("measure", measure, {"accuracy", "loss"}, "what is tuned for and compared");
    flags.list("place", places, "PARTS", "rows at equal budget, of q k v o mlp norm embed");
    flags.list("rank-place", rank_places, "PARTS", "places at which the rank is varied");
    flags.list("rank", ranks, "R", "the ranks there");
    flags.count("budget-rank", budget_rank, {.least = 1, .most = 1e6},
                "rank on the first place; its numbers are the budget");
    flags.number("scale", scale, {.least = 0, .open_below = true}, "s = alpha/r, of every row");
    flags.text("lr", lr, "X|A,B,C", "one rate, or exactly these to choose from; tuned without");
    flags.flag("refine", refine, "tune in steps of 10^(1/8) round the best half-decade");
    flags.count("steps", training.steps, some, "training steps");
    flags.count("batch-size", training.batch_size, some, "sequences in a step");
    flags.count("seeds", seeds.report, {.least = 2, .most = 1000}, "reported seeds");
    flags.count("tune-seeds", seeds.tune, {.least = 1, .most = 1000}, "seeds that tune");
    flags.number("margin", margin, {.least = 0},
                 "points of accuracy, or hundredths of loss, that count as equivalent");
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.flag("quick", quick, "a small model, few rows and steps: a trial of the program");
    flags.flag("quiet", quiet, "no progress");
  }
  void finish(const Flags& flags) {
    if (quick) {
      const auto unless = [&](const char* flag, auto& value, auto quickly) {
        if (!flags.given(flag)) value = quickly;
      };
      using Texts = std::vector<std::string>;
      unless("task", task,
             std::string("bytes:layers=1,width=32,heads=2,length=32,pretrain_steps=60,windows=8"));
      unless("place", places, Texts{"q", "v", "q,v", "norm"});
      unless("rank-place", rank_places, Texts{"q,v"});
      unless("rank", ranks, Texts{"1", "4"});
      unless("budget-rank", budget_rank, std::size_t{4});
      unless("lr", lr, std::string("0.003,0.01"));
      unless("steps", training.steps, std::size_t{20});
      unless("seeds", seeds.report, std::size_t{3});
    }
    if (places.empty()) throw std::invalid_argument("--place names no place");
    training.eval_every = training.steps;
  }
  bool by_accuracy() const { return measure == "accuracy"; }
  TuneSettings tune() const {
    TuneSettings out{
        .seeds = seeds, .judge = by_accuracy() ? final_accuracy : final_loss, .refine = refine};
    if (lr.empty()) return out;
    for (const std::string& word : split(lr, ',')) {
      out.rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
    }
    return out;
  }
  // Of a test row, so that more is better and differences are in points, or hundredths.
  double merit(const Run& run) const {
    const Row* test = run.last("test");
    if (!test || run.diverged()) return kNaN;
    return 100 * (by_accuracy() ? test->accuracy.value_or(kNaN) : -test->loss.value_or(kNaN));
  }
};

struct Line {  // a row of the table
  std::string place;
  std::size_t rank = 0;  // 0: trained in full
  Curve curve;
  std::size_t trained = 0;
  bool at_budget = false, in_ranks = false;
  std::string label() const { return rank > 0 ? fmt::format("{} r={}", place, rank) : place; }
};

class Lines {
 public:
  Lines(const Settings& s, const Task& task) : s_(s), task_(task) {
    const std::size_t budget = s.budget_rank * numbers_at_rank_1(s.places.front(), task.start());
    for (const std::string& place : s.places) add(place, rank_for(place, budget)).at_budget = true;
    for (const std::string& place : s.rank_places) {
      for (const std::string& word : s.ranks) {
        add(place, checked_count("--rank", word, {.least = 1, .most = 1e6})).in_ranks = true;
      }
    }
  }
  std::vector<Line> all;

  const Line* find(const std::string& place, std::optional<std::size_t> rank) const {
    for (const Line& line : all) {
      if (line.place == place && (rank ? line.rank == *rank : line.at_budget)) return &line;
    }
    return nullptr;
  }

 private:
  static bool low_rank(const std::string& place) {
    const auto parts = split(place, ',');
    const auto low = static_cast<std::size_t>(
        std::count_if(parts.begin(), parts.end(),
                      [](const std::string& part) { return full_method(part).empty(); }));
    if (low == parts.size()) return true;
    if (parts.size() == 1) return false;
    throw std::invalid_argument("--place '" + place +
                                "' mixes what is adapted with what is trained in full; norm and "
                                "embed are places of their own");
  }
  std::size_t rank_for(const std::string& place, std::size_t budget) const {
    if (!low_rank(place)) return 0;
    const auto each = static_cast<double>(numbers_at_rank_1(place, task_.start()));
    return static_cast<std::size_t>(std::max(1.0, std::round(static_cast<double>(budget) / each)));
  }
  Line& add(const std::string& place, std::size_t rank) {
    for (Line& line : all) {
      if (line.place == place && line.rank == rank) return line;
    }
    const std::string where = fmt::format("@{}", pattern_of(place));
    std::string method =
        fmt::format("lora:rank={},alpha={:g}{}", rank, s_.scale * static_cast<double>(rank), where);
    if (rank == 0) method = full_method(place) + where;
    Line line{place, rank, {method, s_.optimizer}};
    const auto planned = plan(adaptation_of(method, s_.training), task_.start(), {});
    Weights weights = task_.start();
    Optimizer trial({.spec = make_optimizer_spec(parse_spec(s_.optimizer))});
    apply(planned, weights, 1, trial);
    line.trained = trained_numbers(planned);
    return all.emplace_back(std::move(line));
  }

  const Settings& s_;
  const Task& task_;
};

// What the paper has, in points: the first less the second, on WikiSQL (± 0.5) and MNLI (± 0.1).
struct Question {
  std::string first, second;                           // places
  std::optional<std::size_t> first_rank, second_rank;  // none: that of the budget
  double wikisql = kNaN, mnli = kNaN;
};

const std::vector<Question> kQuestions{{"q,v", "q", {}, {}, 73.7 - 70.4, 91.3 - 91.0},
                                       {"q,v", "q,k", {}, {}, 73.7 - 71.4, 91.3 - 91.3},
                                       {"v", "q", {}, {}, 73.0 - 70.4, 91.0 - 91.0},
                                       {"q,k,v,o", "q,v", {}, {}, 73.7 - 73.7, 91.7 - 91.3},
                                       {"q,k,v,o,mlp", "q,k,v,o", {}, {}},
                                       {"q,v", "norm", {}, {}},
                                       {"q,v", "embed", {}, {}},
                                       {"q", "q", 8, 1, 70.4 - 68.8, 90.7 - 90.7},
                                       {"q", "q", 64, 8, 70.0 - 70.4, 90.7 - 90.7},
                                       {"q,v", "q,v", 8, 1, 73.8 - 73.4, 91.6 - 91.3},
                                       {"q,v", "q,v", 64, 8, 73.5 - 73.8, 91.4 - 91.6},
                                       {"q,k,v,o", "q,k,v,o", 8, 1, 74.0 - 74.1, 91.5 - 91.2},
                                       {"q,k,v,o", "q,k,v,o", 64, 8, 73.9 - 74.0, 91.4 - 91.5}};

struct Answer {
  std::string text;
  Interval difference;
  double p = kNaN, adjusted_p = kNaN, wikisql = kNaN, mnli = kNaN;
  std::string verdict;
};

std::vector<Answer> answers(const Settings& s, const Lines& lines,
                            const std::vector<TunedCurve>& tuned) {
  const auto merits = [&](const Line& line) {
    const auto at = static_cast<std::size_t>(&line - lines.all.data());
    return over_seeds(tuned[at], [&](const Run& run) { return s.merit(run); });
  };
  std::vector<Answer> out;
  for (const Question& question : kQuestions) {
    const Line* first = lines.find(question.first, question.first_rank);
    const Line* second = lines.find(question.second, question.second_rank);
    if (!first || !second || first == second) continue;
    std::vector<double> differences = merits(*first);
    const std::vector<double> other = merits(*second);
    for (std::size_t i = 0; i < other.size(); ++i) differences[i] -= other[i];
    out.push_back({.text = first->label() + " − " + second->label(),
                   .difference = t_interval(differences),
                   .p = t_test(differences),
                   .wikisql = question.wikisql,
                   .mnli = question.mnli,
                   .verdict = {}});
  }
  std::vector<double> p;
  for (const Answer& answer : out) p.push_back(answer.p);
  p = holm(p);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].adjusted_p = p[i];
    out[i].verdict = verdict(out[i].difference, p[i], s.margin);
  }
  return out;
}

std::string table_csv(const Settings& s, const Lines& lines, const std::vector<TunedCurve>& tuned,
                      const std::vector<Answer>& answers) {
  std::string text = csv_line({"kind", "what", "rank", "trained", "lr", "seed", "value", "low",
                               "high", "verdict", "wikisql", "mnli"});
  const auto number = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
  for (std::size_t c = 0; c < lines.all.size(); ++c) {
    const Line& line = lines.all[c];
    const auto row = [&](const std::string& seed, double value, double low, double high) {
      for (const auto& [kind, listed] :
           {std::pair("budget", line.at_budget), std::pair("rank", line.in_ranks)}) {
        if (!listed) continue;
        text += csv_line({kind, line.place, std::to_string(line.rank), std::to_string(line.trained),
                          exact(tuned[c].lr), seed, number(value), number(low), number(high), "",
                          "", ""});
      }
    };
    const auto values = over_seeds(tuned[c], [&](const Run& run) { return s.merit(run); });
    const Interval all = t_interval(values);
    row("all", all.mean, all.low, all.high);
    for (std::size_t i = 0; i < values.size(); ++i) {
      row(std::to_string(tuned[c].runs[i]->seed), values[i], kNaN, kNaN);
    }
  }
  for (const Answer& a : answers) {
    text += csv_line({"difference", a.text, "", "", "", "all", number(a.difference.mean),
                      number(a.difference.low), number(a.difference.high), a.verdict,
                      number(a.wikisql), number(a.mnli)});
  }
  return text;
}

void print(const Settings& s, const Lines& lines, const std::vector<TunedCurve>& tuned,
           const std::vector<Answer>& answers) {
  const char* unit = s.by_accuracy() ? "test accuracy, %" : "−test loss, nats/100";
  fmt::print("{:<14}{:>6}{:>10}{:>10}  {}\n", "place", "rank", "trained", "lr", unit);
  for (std::size_t c = 0; c < lines.all.size(); ++c) {
    const Line& line = lines.all[c];
    const Interval x =
        t_interval(over_seeds(tuned[c], [&](const Run& run) { return s.merit(run); }));
    fmt::print("{:<14}{:>6}{:>10}{:>10.3g}  {:.2f} [{:.2f}, {:.2f}]{}\n", line.place,
               line.rank > 0 ? std::to_string(line.rank) : "full", line.trained, tuned[c].lr,
               x.mean, x.low, x.high, line.at_budget ? "" : "  (rank)");
  }
  fmt::print("\n{:<34}{:>24}  {:<12}{:>9}{:>7}\n", "difference (paired by seed)",
             "mean [95 % interval]", "verdict", "WikiSQL", "MNLI");
  const auto published = [](double x) { return std::isnan(x) ? "–" : fmt::format("{:+.1f}", x); };
  for (const Answer& a : answers) {
    fmt::print("{:<34}{:>24}  {:<12}{:>9}{:>7}\n", a.text,
               fmt::format("{:+.2f} [{:+.2f}, {:+.2f}]", a.difference.mean, a.difference.low,
                           a.difference.high),
               a.verdict, published(a.wikisql), published(a.mnli));
  }
  fmt::print(
      "\nverdict after Holm over these differences, margin ±{:g}; WikiSQL (± 0.5) and MNLI "
      "(± 0.1):\nTables 5 and 6 of arXiv:2106.09685, GPT-3 175B\n",
      s.margin);
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("where", "which matrices to adapt under a fixed budget, and at which rank?");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  s.finish(flags);
  const TuneSettings tune = s.tune();
  for (const auto* places : {&s.places, &s.rank_places}) {
    for (const std::string& place : *places) pattern_of(place);
  }
  const TaskFamily family = prepare_task(parse_spec(s.task), s.context);

  RunFolder folder("where", folder_flags);
  Progress progress(s.quiet);
  progress.note("preparing the start");
  Sweep sweep(family, s.training, s.jobs, folder, progress);
  sweep.prepare(s.seeds.all());
  const Lines lines(s, sweep.task(1));
  std::vector<Curve> curves;
  for (const Line& line : lines.all) {
    progress.note(
        fmt::format("{:<20}{:>10} trained  {}", line.label(), line.trained, line.curve.method));
    curves.push_back(line.curve);
  }
  nlohmann::ordered_json metadata = machine_metadata("where");
  metadata["seeds"] = s.seeds.reported();
  metadata["tuning_seeds"] = s.seeds.tuning();
  for (const auto& [key, value] : family.record) metadata[key] = value;
  folder.begin(flags.resolved(), metadata);
  sweep.restore(s.seeds.reported());
  const std::vector<TunedCurve> tuned = run_tuned(sweep, progress, curves, tune);
  const std::vector<Answer> found = answers(s, lines, tuned);
  folder.write("table.csv", table_csv(s, lines, tuned, found));
  nlohmann::ordered_json verdicts = nlohmann::ordered_json::array();
  for (const Answer& answer : found) {
    verdicts.push_back({{"difference", answer.text}, {"verdict", answer.verdict}});
  }
  finish_run(folder, nlohmann::ordered_json::object({{"differences", verdicts}}), s.quiet, [&] {
    progress.clear();
    print(s, lines, tuned, found);
  });
  require_some_run(tuned, folder);
  return 0;
}

}  // namespace

int where_main(int argc, const char* const* argv) {
  return run_program("where", [&] { return run(argc, argv); });
}

}  // namespace gradview
