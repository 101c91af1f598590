#include "gradview/experiments/allocation.hpp"

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
#include "gradview/experiments/tasks/parallel.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Settings {
  std::string task = "parallel", optimizer = "adam", lr;
  std::size_t rank = 6, budget = 8, jobs = cores();
  double gamma = 0.1, share = 0.9;
  Seeds seeds{.report = 8, .tune = 2};
  TrainingSettings training;
  bool quiet = false;

  void declare(Flags& flags) {
    training.steps = 600;
    training.batch_size = 32;
    training.eval_every = 20;
    flags.text("task", task, "SPEC", "the layers: parallel, with its options");
    flags.text("optimizer", optimizer, "SPEC", "update rule of all methods");
    flags.count("rank", rank, {.least = 2, .most = 1000}, "AdaLoRA's triplets per matrix at first");
    flags.count("budget", budget, {.least = 1, .most = 1e5}, "its triplets in all at last");
    flags.number("gamma", gamma, {.least = 0, .open_below = true}, "weight of its penalty");
    flags.number("share", share, {.least = 0, .most = 1}, "of the budget that counts as found");
    flags.text("lr", lr, "X|A,B,C", "one rate, or exactly these to choose from; tuned without");
    flags.count("steps", training.steps, {.least = 1, .most = 1e9}, "training steps");
    flags.count("batch-size", training.batch_size, {.least = 1, .most = 1e9}, "inputs in a step");
    flags.count("eval-every", training.eval_every, {.least = 1, .most = 1e9},
                "steps between two rows");
    flags.count("seeds", seeds.report, {.least = 1, .most = 1000}, "reported seeds");
    flags.count("tune-seeds", seeds.tune, {.least = 1, .most = 1000}, "seeds that tune");
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.flag("quiet", quiet, "no progress");
  }
  TuneSettings tune() const {
    TuneSettings out{.seeds = seeds};
    if (lr.empty()) return out;
    for (const std::string& word : split(lr, ',')) {
      out.rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
    }
    return out;
  }
};

double figure_at_end(const Run& run, const std::string& matrix, const std::string& key) {
  double value = kNaN;
  for (const LayerRow& row : run.layers) {
    if (row.parameter == matrix && row.key == key) value = row.value;
  }
  return value;
}

struct Claim {
  std::string name, text;
  std::vector<double> values;   // per seed
  double level;                 // the mean is to be above it
  bool signed_verdict = false;  // better | worse | undecided
  double adjusted_p = kNaN;
  std::string verdict() const {
    const Interval mean = t_interval(values);
    if (!(adjusted_p < 0.05)) return "undecided";
    if (signed_verdict) return mean.mean > level ? "helps" : "harms";
    return mean.mean > level ? "holds" : "does not";
  }
};

class Allocation {
 public:
  Allocation(const Settings& s, const ParallelOptions& layers) : s_(s), layers_(layers) {
    const auto adalora = [&](double gamma) {
      return fmt::format("adalora:rank={},budget={},gamma={:g}", s.rank, s.budget, gamma);
    };
    const std::size_t uniform = std::max<std::size_t>(1, s.budget / layers.matrices);
    for (const std::string& spec :
         {adalora(s.gamma), adalora(0), fmt::format("lora:rank={}", uniform),
          fmt::format("lora:rank={}", uniform + 1)}) {
      curves.push_back({spec, s.optimizer});
    }
    uniform_ = uniform;
  }

  double needy_share(const Run& run) const {
    double needy = 0, all = 0;
    for (std::size_t k = 0; k < layers_.matrices; ++k) {
      const double rank = figure_at_end(run, layers_.name(k), "rank");
      all += rank;
      if (layers_.is_needy(k)) needy += rank;
    }
    return needy / all;
  }
  double sum(const Run& run, const std::string& key) const {
    double total = 0;
    for (std::size_t k = 0; k < layers_.matrices; ++k) {
      total += figure_at_end(run, layers_.name(k), key);
    }
    return total;
  }
  static double accuracy(const Run& run) {
    const Row* test = run.last("test");
    return test && !run.diverged() ? test->accuracy.value_or(kNaN) : kNaN;
  }

  std::vector<Claim> claims(const std::vector<TunedCurve>& tuned) const {
    const auto difference = [&](std::size_t a, std::size_t b) {
      std::vector<double> out = over_seeds(tuned[a], accuracy);
      const std::vector<double> other = over_seeds(tuned[b], accuracy);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] -= other[i];
      return out;
    };
    const auto share = [&](const Run& run) { return needy_share(run); };
    std::vector<Claim> out;
    for (const std::size_t which : {0U, 1U}) {
      out.push_back({"finds",
                     fmt::format("{}: the needy matrices hold {:g} % of the final budget or more",
                                 curves[which].method, 100 * s_.share),
                     over_seeds(tuned[which], share), s_.share});
    }
    out.push_back({"beats",
                   fmt::format("adalora explains more than lora of rank {} ({} triplets)", uniform_,
                               uniform_ * layers_.matrices),
                   difference(0, 2), 0});
    out.push_back({"beats",
                   fmt::format("adalora explains more than lora of rank {} ({} triplets)",
                               uniform_ + 1, (uniform_ + 1) * layers_.matrices),
                   difference(0, 3), 0});
    out.push_back({"revives", "masked triplets return (how many, in a run)",
                   over_seeds(tuned[0], [&](const Run& run) { return sum(run, "returns"); }), 0});
    out.push_back({"penalty", "the penalty, in R² against gamma=0", difference(0, 1), 0, true});
    std::vector<double> p;
    for (const Claim& claim : out) {
      std::vector<double> above = claim.values;
      for (double& value : above) value -= claim.level;
      p.push_back(t_test(above));
    }
    p = holm(p);
    for (std::size_t i = 0; i < out.size(); ++i) out[i].adjusted_p = p[i];
    return out;
  }

  struct Line {
    std::string what, method;
    std::vector<double> values;
  };
  std::vector<Line> lines(const std::vector<TunedCurve>& tuned) const {
    std::vector<Line> out;
    for (const TunedCurve& curve : tuned) {
      const std::string& method = curve.curve.method;
      const auto add = [&](const std::string& what, const std::function<double(const Run&)>& of) {
        const std::vector<double> values = over_seeds(curve, of);
        if (!std::isnan(values.front())) out.push_back({what, method, values});
      };
      add("R²", accuracy);
      add("share of the needy", [&](const Run& run) { return needy_share(run); });
      add("triplets", [&](const Run& run) { return sum(run, "rank"); });
      add("returns", [&](const Run& run) { return sum(run, "returns"); });
      add("orthogonality", [&](const Run& run) {
        return sum(run, "orthogonality") / static_cast<double>(layers_.matrices);
      });
    }
    return out;
  }
  double best(std::size_t which) const {  // R² that no training passes
    return which < 2 ? kNaN : layers_.explained_by(uniform_ + which - 2);
  }

  std::vector<Curve> curves;

 private:
  const Settings& s_;
  const ParallelOptions& layers_;
  std::size_t uniform_ = 1;
};

std::string table_csv(const std::vector<Allocation::Line>& lines,
                      const std::vector<Claim>& claims) {
  std::string text = csv_line({"figure", "method", "seed", "value", "low", "high", "verdict"});
  const auto add = [&](const std::string& figure, const std::string& method,
                       const std::vector<double>& values, const std::string& verdict) {
    const Interval all = t_interval(values);
    text += csv_line(
        {figure, method, "all", exact(all.mean), exact(all.low), exact(all.high), verdict});
    for (std::size_t i = 0; i < values.size(); ++i) {
      text += csv_line({figure, method, std::to_string(i + 1), exact(values[i]), "", "", ""});
    }
  };
  for (const auto& line : lines) add(line.what, line.method, line.values, "");
  for (const Claim& claim : claims) add(claim.name, claim.text, claim.values, claim.verdict());
  return text;
}

std::string shown(const Interval& x) {
  if (std::isnan(x.low)) return fmt::format("{:.4g}", x.mean);
  return fmt::format("{:.4g} [{:.4g}, {:.4g}]", x.mean, x.low, x.high);
}

void print(const Allocation& allocation, const std::vector<TunedCurve>& tuned,
           const std::vector<Allocation::Line>& lines, const std::vector<Claim>& claims) {
  for (std::size_t c = 0; c < tuned.size(); ++c) {
    const std::string& method = tuned[c].curve.method;
    fmt::print("{} at lr {:.3g}", method, tuned[c].lr);
    const double best = allocation.best(c);
    if (!std::isnan(best)) fmt::print(", whose R² is at most {:.4g}", best);
    fmt::print("\n");
    for (const auto& line : lines) {
      if (line.method == method) {
        fmt::print("  {:<22}{}\n", line.what, shown(t_interval(line.values)));
      }
    }
  }
  fmt::print("\n");
  for (const Claim& claim : claims) {
    fmt::print("{:<10} {:<8} {}: {}, p {:.2g}\n", claim.verdict(), claim.name, claim.text,
               shown(t_interval(claim.values)), claim.adjusted_p);
  }
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("allocation", "does AdaLoRA give its budget to the matrices that need it?");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  const Spec task = parse_spec(s.task);
  if (task.name != "parallel") {
    throw std::invalid_argument("--task is '" + s.task + "'; allocation knows parallel only");
  }
  const auto layers = read_options<ParallelOptions>(task);
  const TuneSettings tune = s.tune();
  make_optimizer_spec(parse_spec(s.optimizer));
  if (s.training.eval_every > s.training.steps) {
    throw std::invalid_argument(fmt::format("--eval-every {} is more than --steps {}",
                                            s.training.eval_every, s.training.steps));
  }
  const TaskFamily family = prepare_task(task, {});
  const Allocation allocation(s, layers);
  if (s.budget >= s.rank * layers.matrices) {
    throw std::invalid_argument(fmt::format("--budget {} leaves nothing to prune of {} x --rank {}",
                                            s.budget, layers.matrices, s.rank));
  }

  RunFolder folder("allocation", folder_flags);
  Progress progress(s.quiet);
  Sweep sweep(family, s.training, s.jobs, folder, progress);
  sweep.prepare(s.seeds.all());
  const Task& first = sweep.task(1);
  for (const Curve& curve : allocation.curves) {
    const auto planned = plan(adaptation_of(curve.method, s.training), first.start(), {});
    progress.note(curve.method + "\n" + describe(planned));
    Weights weights = first.start();
    Optimizer trial({.spec = make_optimizer_spec(parse_spec(curve.optimizer))});
    apply(planned, weights, 1, trial);  // refuses what has no meaning together
  }
  nlohmann::ordered_json metadata = machine_metadata("allocation");
  metadata["seeds"] = s.seeds.reported();
  metadata["tuning_seeds"] = s.seeds.tuning();
  for (std::size_t k = 0; k < layers.matrices; ++k) {
    if (layers.is_needy(k)) metadata["needy"].push_back(layers.name(k));
  }
  folder.begin(flags.resolved(), metadata);
  sweep.restore(s.seeds.reported());
  const std::vector<TunedCurve> tuned = run_tuned(sweep, progress, allocation.curves, tune);
  const auto lines = allocation.lines(tuned);
  const auto claims = allocation.claims(tuned);
  folder.write("table.csv", table_csv(lines, claims));
  nlohmann::ordered_json verdicts = nlohmann::ordered_json::array();
  for (const Claim& claim : claims) {
    verdicts.push_back({{"claim", claim.text}, {"verdict", claim.verdict()}});
  }
  finish_run(folder, nlohmann::ordered_json::object({{"claims", verdicts}}), s.quiet, [&] {
    progress.clear();
    print(allocation, tuned, lines, claims);
  });
  require_some_run(tuned, folder);
  return 0;
}

}  // namespace

int allocation_main(int argc, const char* const* argv) {
  return run_program("allocation", [&] { return run(argc, argv); });
}

}  // namespace gradview
