#include "gradview/experiments/subspace/subspace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/help.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/experiments/subspace/bases.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

struct Settings {
  std::vector<std::string> projectors{"full", "lora:rank=8", "lora:rank=64",
                                      "galore:rank=8,refresh_every=50", "random:rank=8"};
  std::string low = "lora:rank=8", high = "lora:rank=64", reference = "full";
  std::string optimizer = "adam", task = "fashion", lr;
  TaskContext context;
  TrainingSettings training;
  Seeds seeds{.report = 6, .tune = 1};
  std::size_t directions = 8, jobs = cores();
  bool quiet = false;
};

// One figure with its interval over seeds, or over pairs of seeds that share none.
struct Finding {
  std::string what, method, other, matrix;
  std::vector<double> values;
  double chance;  // what independent random subspaces would have; NaN where there is no such thing
  Interval interval() const { return t_interval(values); }
};

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

class Report {
 public:
  Report(const Settings& s, const Bases& bases, const Weights& start,
         const std::vector<TunedCurve>& curves)
      : s_(s), bases_(bases), curves_(curves) {
    for (const auto& [name, value] : start) {
      if (value.shape()[0] > 1) matrices_.emplace_back(name, shape_of(value));
    }
  }

  std::vector<Finding> findings() const {
    std::vector<Finding> all;
    for (const auto& [matrix, shape] : matrices_) {
      for (const TunedCurve& curve : curves_) {
        for (const char* key : {"gain", "cosine"}) all.push_back(along(key, curve, matrix));
      }
      for (const std::string& method : s_.projectors) {
        all.push_back(over_seeds("intruders", method, matrix,
                                 [](const Bases::End& end) { return end.intruders; }));
        all.push_back(over_seeds("stable rank", method, matrix, [](const Bases::End& end) {
          return stable_rank(svd(end.delta));
        }));
        all.push_back(over_seeds("90 % rank", method, matrix, [](const Bases::End& end) {
          return static_cast<double>(energy_rank(svd(end.delta)));
        }));
        all.push_back(similarity(method, method, matrix, shape));
      }
      for (std::size_t a = 0; a < s_.projectors.size(); ++a) {
        for (std::size_t b = a + 1; b < s_.projectors.size(); ++b) {
          all.push_back(similarity(s_.projectors[a], s_.projectors[b], matrix, shape));
        }
      }
      for (const std::string& method : s_.projectors) {
        if (method != s_.reference) all.push_back(covered(method, matrix, shape));
      }
    }
    std::erase_if(all, [](const Finding& f) { return f.values.empty(); });
    return all;
  }

  struct Claim {
    std::string text;
    Interval difference;
    double p;
  };
  // Differences that are paired by seed, the mean over the matrices.
  std::vector<Claim> claims() const {
    std::vector<Claim> out;
    const auto add = [&](const std::string& text, const std::vector<double>& differences) {
      if (!differences.empty()) out.push_back({text, t_interval(differences), t_test(differences)});
    };
    add(fmt::format("the {} leading directions of {} cover more of {}'s change than those of {}",
                    s_.directions, s_.high, s_.reference, s_.low),
        per_seed([&](std::uint64_t seed, const std::string& matrix) {
          return share(s_.high, seed, matrix) - share(s_.low, seed, matrix);
        }));
    add(fmt::format("{} and {} find more alike {}-dimensional subspaces than chance", s_.low,
                    s_.high, s_.directions),
        per_seed([&](std::uint64_t seed, const std::string& matrix) {
          return across(s_.low, s_.high, seed, matrix) - chance(matrix);
        }));
    add(fmt::format("two seeds of {} find more alike subspaces than chance", s_.low),
        per_seed([&](std::uint64_t seed, const std::string& matrix) {
          return across(s_.low, s_.low, seed, matrix) - chance(matrix);
        }));
    add(fmt::format("{} has more intruder dimensions than {}", s_.low, s_.reference),
        per_seed([&](std::uint64_t seed, const std::string& matrix) {
          const auto* a = bases_.find(s_.low, seed, matrix);
          const auto* b = bases_.find(s_.reference, seed, matrix);
          return a && b ? a->intruders - b->intruders : kNone;
        }));
    return out;
  }

  // φ between the i leading directions of `low` and the j leading ones of `high`, as a grid.
  std::string grid_csv() const {
    std::string text = csv_line({"pair", "matrix", "seed", "other_seed", "i", "j", "similarity"});
    const std::vector<std::pair<std::string, std::string>> pairs{
        {s_.low, s_.high}, {s_.low, s_.low}, {s_.high, s_.high}};
    for (const auto& [a, b] : pairs) {
      for (const auto& [matrix, shape] : matrices_) {
        for (std::uint64_t seed = 1; seed < s_.seeds.report; seed += 2) {
          const std::uint64_t other = seed + 1;
          for (std::size_t i = 1; i <= s_.directions; ++i) {
            for (std::size_t j = 1; j <= s_.directions; ++j) {
              const double value = grid(a, seed, i, b, other, j, matrix);
              if (std::isnan(value)) continue;
              text +=
                  csv_line({a + " and " + b, matrix, std::to_string(seed), std::to_string(other),
                            std::to_string(i), std::to_string(j), exact(value)});
            }
          }
        }
      }
    }
    return text;
  }

 private:
  template <class Number>
  Finding over_seeds(const std::string& what, const std::string& method, const std::string& matrix,
                     const Number& number) const {
    Finding finding{what, method, "", matrix, {}, kNone};
    for (std::uint64_t seed = 1; seed <= s_.seeds.report; ++seed) {
      const auto* end = bases_.find(method, seed, matrix);
      if (end) finding.values.push_back(number(*end));
    }
    return finding;
  }
  // The mean over the logged steps.
  static Finding along(const std::string& key, const TunedCurve& curve, const std::string& matrix) {
    Finding finding{key, curve.curve.method, "", matrix, {}, kNone};
    for (const Run* run : curve.runs) {
      double total = 0, count = 0;
      for (const LayerRow& row : run->layers) {
        if (row.parameter != matrix || row.key != key || !std::isfinite(row.value)) continue;
        total += row.value;
        ++count;
      }
      if (count > 0) finding.values.push_back(total / count);
    }
    return finding;
  }
  // φ of the `directions` leading ones between seeds 1 and 2, 3 and 4 …: never under one seed, where
  // the starts of two ranks have rows in common.
  Finding similarity(const std::string& a, const std::string& b, const std::string& matrix,
                     Shape shape) const {
    Finding finding{"φ", a, b, matrix, {}, chance_of(shape)};
    for (std::uint64_t seed = 1; seed < s_.seeds.report; seed += 2) {
      const double value = across(a, b, seed, matrix);
      if (!std::isnan(value)) finding.values.push_back(value);
    }
    return finding;
  }
  double across(const std::string& a, const std::string& b, std::uint64_t seed,
                const std::string& matrix) const {
    if (seed % 2 == 0) return kNone;
    const double there = phi(a, seed, b, seed + 1, matrix, s_.directions);
    const double back = phi(b, seed, a, seed + 1, matrix, s_.directions);
    return (there + back) / 2;
  }
  Finding covered(const std::string& method, const std::string& matrix, Shape shape) const {
    Finding finding{"share of " + s_.reference, method, s_.reference, matrix, {}, chance_of(shape)};
    for (std::uint64_t seed = 1; seed <= s_.seeds.report; ++seed) {
      const double value = share(method, seed, matrix);
      if (!std::isnan(value)) finding.values.push_back(value);
    }
    return finding;
  }

  double chance_of(Shape shape) const {
    return static_cast<double>(std::min(s_.directions, std::min(shape.rows, shape.cols))) /
           static_cast<double>(shape.cols);
  }
  double chance(const std::string& matrix) const {
    for (const auto& [name, shape] : matrices_) {
      if (name == matrix) return chance_of(shape);
    }
    return kNone;
  }
  double grid(const std::string& a, std::uint64_t seed_a, std::size_t i, const std::string& b,
              std::uint64_t seed_b, std::size_t j, const std::string& matrix) const {
    const auto* one = bases_.find(a, seed_a, matrix);
    const auto* two = bases_.find(b, seed_b, matrix);
    if (!one || !two || one->present < i || two->present < j) return kNone;
    return subspace_similarity(rows(one->rows, 0, i), rows(two->rows, 0, j));
  }
  double phi(const std::string& a, std::uint64_t seed_a, const std::string& b, std::uint64_t seed_b,
             const std::string& matrix, std::size_t k) const {
    const auto* one = bases_.find(a, seed_a, matrix);
    const auto* two = bases_.find(b, seed_b, matrix);
    if (!one || !two) return kNone;
    k = std::min({k, one->present, two->present});
    return k == 0 ? kNone : grid(a, seed_a, k, b, seed_b, k, matrix);
  }
  double share(const std::string& method, std::uint64_t seed, const std::string& matrix) const {
    const auto* end = bases_.find(method, seed, matrix);
    const auto* whole = bases_.find(s_.reference, seed, matrix);
    if (!end || !whole || end->present == 0) return kNone;
    return covered_share(whole->delta, rows(end->rows, 0, std::min(s_.directions, end->present)));
  }
  template <class Number>
  std::vector<double> per_seed(const Number& number) const {
    std::vector<double> values;
    for (std::uint64_t seed = 1; seed <= s_.seeds.report; ++seed) {
      double sum = 0, count = 0;
      for (const auto& entry : matrices_) {
        const double value = number(seed, entry.first);
        if (std::isnan(value)) continue;
        sum += value;
        ++count;
      }
      if (count > 0) values.push_back(sum / count);
    }
    return values;
  }

  const Settings& s_;
  const Bases& bases_;
  const std::vector<TunedCurve>& curves_;
  std::vector<std::pair<std::string, Shape>> matrices_;
};

std::string table_csv(const std::vector<Finding>& findings) {
  std::string text =
      csv_line({"figure", "method", "other", "matrix", "seed", "value", "low", "high", "chance"});
  for (const Finding& f : findings) {
    const Interval all = f.interval();
    text += csv_line({f.what, f.method, f.other, f.matrix, "all", exact(all.mean), exact(all.low),
                      exact(all.high), exact(f.chance)});
    for (std::size_t i = 0; i < f.values.size(); ++i) {
      text += csv_line({f.what, f.method, f.other, f.matrix, std::to_string(i + 1),
                        exact(f.values[i]), "", "", ""});
    }
  }
  return text;
}

std::string shown(const Interval& x) {
  if (std::isnan(x.low)) return fmt::format("{:.3g}", x.mean);
  return fmt::format("{:.3g} ±{:.2g}", x.mean, x.high - x.mean);
}

// Per matrix a line for each method, and for each pair of methods its φ: means with half of the
// 95 % interval.
void print_findings(const std::vector<Finding>& findings, const Settings& s) {
  const std::vector<std::string> figures{"gain",
                                         "cosine",
                                         "stable rank",
                                         "90 % rank",
                                         "intruders",
                                         "φ of two seeds",
                                         "share of " + s.reference};
  std::vector<std::string> matrices;
  for (const Finding& f : findings) {
    if (std::find(matrices.begin(), matrices.end(), f.matrix) == matrices.end()) {
      matrices.push_back(f.matrix);
    }
  }
  const auto cell = [&](const std::string& what, const std::string& method,
                        const std::string& matrix) {
    for (const Finding& f : findings) {
      const bool own =
          f.what == what || (f.what == "φ" && what == "φ of two seeds" && f.other == method);
      if (own && f.method == method && f.matrix == matrix) return shown(f.interval());
    }
    return std::string("–");
  };
  for (const std::string& matrix : matrices) {
    fmt::print("{:<34}", matrix);
    for (const std::string& figure : figures) fmt::print("{:>17}", figure);
    fmt::print("\n");
    for (const std::string& method : s.projectors) {
      fmt::print("{:<34}", method);
      for (const std::string& figure : figures) fmt::print("{:>17}", cell(figure, method, matrix));
      fmt::print("\n");
    }
    double chance = kNone;
    for (const Finding& f : findings) {
      if (f.what != "φ" || f.matrix != matrix || f.method == f.other) continue;
      fmt::print("  φ of {} and {}: {}\n", f.method, f.other, shown(f.interval()));
      chance = f.chance;
    }
    fmt::print("  chance: {:.3g}\n\n", chance);
  }
}

void print_claims(const std::vector<Report::Claim>& claims) {
  std::vector<double> p;
  for (const auto& claim : claims) p.push_back(claim.p);
  const std::vector<double> adjusted = holm(p);
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const Interval& d = claims[i].difference;
    const char* verdict = !(adjusted[i] < 0.05) ? "undecided" : d.mean > 0 ? "holds" : "does not";
    fmt::print("{:<10} {} (difference {}, p {:.2g})\n", verdict, claims[i].text, shown(d),
               adjusted[i]);
  }
}

void declare(Flags& flags, Settings& s, FolderFlags& folder) {
  flags.list("projector", s.projectors, "SPEC", "methods whose subspaces are followed");
  flags.text("low", s.low, "SPEC", "the method of low rank, among them");
  flags.text("high", s.high, "SPEC", "the method of high rank, among them");
  flags.text("reference", s.reference, "SPEC", "whose change the others should cover, among them");
  flags.text("optimizer", s.optimizer, "SPEC", "update rule of all of them");
  flags.text("task", s.task, "SPEC", "what is learned");
  flags.text("shift", s.context.shift, "SHIFT", "of the task (rotate:90 if not given)");
  flags.text("data", s.context.data, "DIR", "folder of the data set");
  flags.text("cache", s.context.cache, "DIR", "folder for pre-trained networks");
  flags.count("steps", s.training.steps, {.least = 1, .most = 1e9}, "training steps");
  flags.count("batch-size", s.training.batch_size, {.least = 1, .most = 1e9}, "examples in a step");
  flags.count("eval-every", s.training.eval_every, {.least = 1, .most = 1e9},
              "steps between two looks");
  flags.count("directions", s.directions, {.least = 1, .most = 1024},
              "leading singular vectors that are compared and followed");
  flags.text("lr", s.lr, "X|A,B,C", "one rate, or exactly these to choose from; tuned without");
  flags.count("seeds", s.seeds.report, {.least = 1, .most = 1000}, "reported seeds");
  flags.count("tune-seeds", s.seeds.tune, {.least = 1, .most = 1000}, "seeds that tune");
  flags.count("jobs", s.jobs, {.least = 1, .most = 1024}, "runs at the same time");
  flags.flag("quiet", s.quiet, "no progress");
  flags.print("list", "", "name the projectors and end",
              [](const std::string&) { print_projectors(); });
  folder.declare(flags);
}

void require_listed(const Settings& s) {
  const std::pair<const char*, const std::string*> roles[] = {
      {"--low", &s.low}, {"--high", &s.high}, {"--reference", &s.reference}};
  for (const auto& [flag, spec] : roles) {
    if (std::find(s.projectors.begin(), s.projectors.end(), *spec) != s.projectors.end()) continue;
    throw std::invalid_argument(fmt::format("{} '{}' is not among the projectors of this call: {}",
                                            flag, *spec, join(s.projectors, ", ")));
  }
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("subspace", "which directions methods move along, and what more rank adds");
  declare(flags, s, folder_flags);
  flags.parse(argc, argv);
  if (folder_flags.resume) {
    throw std::invalid_argument("--resume: subspace keeps its bases in memory; run it again");
  }
  require_listed(s);
  for (const std::string& text : s.projectors) find_projector(parse_spec(text).name);
  make_optimizer_spec(parse_spec(s.optimizer));
  TuneSettings tune{.seeds = s.seeds};
  if (!s.lr.empty()) {
    for (const std::string& word : split(s.lr, ',')) {
      tune.rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
    }
  }
  RunFolder folder("subspace", folder_flags);
  Progress progress(s.quiet);
  // One start for all seeds: subspaces of different starts have nothing to share.
  const TaskFamily several = prepare_task(parse_spec(s.task), s.context);
  const auto start = several.make(1);
  const TaskFamily one{.make = [start](std::uint64_t) { return start; }, .record = several.record};
  for (const std::string& text : s.projectors) {
    const auto planned =
        plan(adaptation_of(text, s.training), start->start(), start->before_softmax());
    progress.note(text + "\n" + describe(planned));
  }
  nlohmann::ordered_json metadata = machine_metadata("subspace");
  for (const auto& [key, value] : one.record) metadata["task"][key] = value;
  metadata["seeds"] = s.seeds.reported();
  folder.begin(flags.resolved(), metadata);

  Bases bases(s.directions, s.training.steps);
  s.training.watch = [&](const Watched& seen) { bases.watch(seen); };
  Sweep sweep(one, s.training, s.jobs, folder, progress);
  sweep.prepare(s.seeds.all());
  std::vector<Curve> curves;
  for (const std::string& text : s.projectors) curves.push_back({text, s.optimizer});
  const auto tuned = run_tuned(sweep, progress, curves, tune);
  const Report report(s, bases, start->start(), tuned);
  const std::vector<Finding> findings = report.findings();
  folder.write("table.csv", table_csv(findings));
  folder.write("similarity.csv", report.grid_csv());
  nlohmann::ordered_json rates;
  for (const TunedCurve& curve : tuned) rates[curve.curve.method] = curve.lr;
  finish_run(folder, nlohmann::ordered_json::object({{"lr", rates}}), false, [&] {
    progress.clear();
    print_findings(findings, s);
    print_claims(report.claims());
  });
  if (findings.empty())
    throw DivergedError("every run diverged; see " + folder.file("metrics.csv"));
  return 0;
}

}  // namespace

int subspace_main(int argc, const char* const* argv) {
  return run_program("subspace", [&] { return run(argc, argv); });
}

}  // namespace gradview
