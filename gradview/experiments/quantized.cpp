#include "gradview/experiments/quantized.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/layer_memory.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
using Values = std::vector<double>;  // per reported seed

struct Settings {
  std::string task = "bytes:layers=2,width=96,length=64,pretrain_steps=800,start_seed=0,windows=96",
              data, cache, shift, projector = "lora:rank=8,alpha=16", optimizer = "adam", lr;
  std::size_t jobs = cores();
  double share = 0.95;
  Seeds seeds{.report = 5, .tune = 2};
  TrainingSettings training;
  bool no_memory = false, quick = false, quiet = false;
  Shape layer{8704,
              8192};  // whose memory is measured: more than a released matrix may leave behind

  void declare(Flags& flags) {
    training.steps = 200;
    training.batch_size = 16;
    training.eval_every = 40;
    training.target = "_proj";
    flags.text("task", task, "SPEC", "what is learned, from a start of each seed's own");
    flags.text("data", data, "DIR", "folder of the data; where the system has it without");
    flags.text("cache", cache, "DIR", "folder for starts; the user's cache without");
    flags.text("shift", shift, "SHIFT", "how the task differs from the one before");
    flags.text("target", training.target, "REGEX", "matrices in 4 bits, and adapted");
    flags.text("projector", projector, "SPEC", "the adapter of every curve");
    flags.text("optimizer", optimizer, "SPEC", "its update rule");
    flags.text("lr", lr, "X|A,B,C", "one rate, or exactly these to choose from; tuned without");
    flags.number("share", share, {.least = 0, .most = 1},
                 "of the gap that is claimed to come back");
    flags.count("steps", training.steps, {.least = 1, .most = 1e9}, "training steps");
    flags.count("batch-size", training.batch_size, {.least = 1, .most = 1e9}, "examples of a step");
    flags.count("eval-every", training.eval_every, {.least = 1, .most = 1e9},
                "steps between two rows");
    flags.count("seeds", seeds.report, {.least = 2, .most = 1000}, "reported seeds");
    flags.count("tune-seeds", seeds.tune, {.least = 1, .most = 1000}, "seeds that tune");
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.flag("no-memory", no_memory, "measure no memory");
    flags.flag("quick", quick, "small sizes for a look: what is not given otherwise");
    flags.flag("quiet", quiet, "no progress");
  }
  void shrink(const Flags& flags) {
    if (!quick) return;
    if (!flags.given("task")) {
      task = "bytes:layers=1,width=64,heads=2,length=32,pretrain_steps=150,start_seed=0,windows=64";
    }
    if (!flags.given("steps")) training.steps = 30;
    if (!flags.given("eval-every")) training.eval_every = 15;
    if (!flags.given("seeds")) seeds.report = 3;
    if (!flags.given("tune-seeds")) seeds.tune = 1;
    if (!flags.given("lr")) lr = "0.001,0.003,0.01";
  }
  TuneSettings tune() const {
    TuneSettings out{.seeds = seeds, .judge = final_loss, .refine = false};
    if (lr.empty()) return out;
    for (const std::string& word : split(lr, ',')) {
      out.rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
    }
    return out;
  }
};

constexpr FourBit kTypes[] = {FourBit::nf4, FourBit::int4};

Values minus(Values a, const Values& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

struct Share {
  double value = kNaN, low = kNaN, high = kNaN;
};

// 1 − mean(left)/mean(gap) with Fieller's interval: all ρ for which the interval of left − ρ gap
// holds 0. It is bounded where the gap's own interval does not.
Share share_of(const Values& left, const Values& gap) {
  const auto half = [](const Values& values) {
    const Interval all = t_interval(values);
    return (all.high - all.low) / 2;
  };
  Values sum = left;
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += gap[i];
  const double a = t_interval(left).mean, b = t_interval(gap).mean;
  const double aa = std::pow(half(left), 2), bb = std::pow(half(gap), 2);
  const double ab = (std::pow(half(sum), 2) - aa - bb) / 2;
  const double quadratic = b * b - bb, linear = a * b - ab;
  if (!(quadratic > 0)) return {};
  const double root = std::sqrt(std::max(0.0, linear * linear - quadratic * (a * a - aa)));
  return {1 - a / b, 1 - (linear + root) / quadratic, 1 - (linear - root) / quadratic};
}

struct Claim {
  std::string name, text;
  Values values;  // whose mean is claimed to be above 0
  bool open;      // false: there is no gap to speak of
  double adjusted_p = kNaN;
  std::string verdict() const {
    if (!open) return "no gap";
    if (!(adjusted_p < 0.05)) return "undecided";
    return t_interval(values).mean > 0 ? "holds" : "does not";
  }
};

struct Line {
  std::string figure, method;
  Values values;
  Interval all;
};

class Quantized {
 public:
  explicit Quantized(const Settings& s) : s_(s) {
    curves.push_back({s.projector, s.optimizer});
    for (const FourBit type : kTypes) {
      curves.push_back({s.projector + "%" + to_string(type), s.optimizer});
    }
  }
  std::vector<Curve> curves;  // float, and each type

  Weights in_four_bits(const Weights& weights, FourBit type) const {
    return started(
        {.projector = {}, .overrides = {}, .frozen = InFourBits{type, s_.training.target}},
        weights);
  }

  void watch(const Watched& seen, const Task& task) const {
    if (seen.step != s_.training.steps || !seen.weights.all_quantised().empty()) return;
    for (const FourBit type : kTypes) {
      const Weights rounded = in_four_bits(seen.weights, type);
      seen.add("", "rounded " + to_string(type), task.evaluate(rounded, Split::test).loss);
    }
  }

  void fill(const Sweep& sweep, const std::vector<TunedCurve>& tuned) {
    for (std::size_t c = 0; c < curves.size(); ++c) {
      adapted_.push_back(over_seeds(tuned[c], [](const Run& run) {
        const Row* test = run.last("test");
        return test && !run.diverged() ? test->loss.value_or(kNaN) : kNaN;
      }));
      alone_.emplace_back();
      for (const std::uint64_t seed : s_.seeds.reported()) {
        const Task& task = sweep.task(seed);
        alone_.back().push_back(
            task.evaluate(c == 0 ? task.start() : in_four_bits(task.start(), kTypes[c - 1]),
                          Split::test)
                .loss);
      }
      if (c == 0) continue;
      rounded_.push_back(over_seeds(tuned[0], [&](const Run& run) {
        for (const LayerRow& row : run.layers) {
          if (row.key == "rounded " + to_string(kTypes[c - 1])) return row.value;
        }
        return kNaN;
      }));
    }
    for (std::size_t c = 0; c < curves.size(); ++c) {
      const std::string base = c == 0 ? "float" : to_string(kTypes[c - 1]);
      add("loss, nothing trained", base, alone_[c]);
      add("loss, adapted", base, adapted_[c]);
      if (c > 0) add("loss, adapted then rounded", base, rounded_[c - 1]);
    }
    for (std::size_t c = 1; c < curves.size(); ++c) {
      const std::string base = to_string(kTypes[c - 1]);
      const Values gap = minus(alone_[c], alone_[0]), left = minus(adapted_[c], adapted_[0]);
      const Values after = minus(rounded_[c - 1], adapted_[0]);
      add("gap", base, gap);
      add("gap after adapting", base, after);
      add("left", base, left);
      add_share("share", base, left, gap);
      add_share("share of the gap after adapting", base, left, after);
    }
  }

  std::vector<Claim> claims() const {
    std::vector<Claim> out;
    std::vector<Values> gaps;
    for (std::size_t c = 1; c < curves.size(); ++c) {
      const std::string base = to_string(kTypes[c - 1]);
      gaps.push_back(minus(alone_[c], alone_[0]));
      const Values left = minus(adapted_[c], adapted_[0]);
      Values spare = gaps.back();
      for (std::size_t i = 0; i < spare.size(); ++i) spare[i] = (1 - s_.share) * spare[i] - left[i];
      out.push_back({"costs", base + " alone loses more than float alone", gaps.back(), true});
      out.push_back({"recovers",
                     fmt::format("the adapter gives back {:g} % of it or more", 100 * s_.share),
                     spare, t_interval(gaps.back()).low > 0});
    }
    out.push_back(
        {"better code", "int4 alone loses more than nf4 alone", minus(gaps[1], gaps[0]), true});
    out.push_back({"better base", "int4 adapted loses more than nf4 adapted",
                   minus(adapted_[2], adapted_[1]), true});
    Values p;
    for (const Claim& claim : out) p.push_back(claim.open ? t_test(claim.values) : kNaN);
    p = holm(p);
    for (std::size_t i = 0; i < out.size(); ++i) out[i].adjusted_p = p[i];
    return out;
  }

  const std::vector<Line>& lines() const { return lines_; }

 private:
  void add(const std::string& figure, const std::string& base, const Values& values) {
    lines_.push_back({figure, base, values, t_interval(values)});
  }
  void add_share(const std::string& figure, const std::string& base, const Values& left,
                 const Values& gap) {
    const Share share = share_of(left, gap);
    lines_.push_back({figure, base, {}, {share.value, share.low, share.high}});
  }

  const Settings& s_;
  std::vector<Values> alone_, adapted_, rounded_;
  std::vector<Line> lines_;
};

std::vector<Line> memory(const Settings& s) {
  std::vector<Line> out;
  if (s.no_memory) return out;
  const auto numbers = static_cast<double>(s.layer.size());
  const auto add = [&](const std::string& base, std::optional<FourBit> type) {
    const LayerMemory seen = layer_memory(s.layer, type);
    const auto line = [&](const char* figure, double value) {
      out.push_back({figure, base, {}, {value, kNaN, kNaN}});
    };
    line("bits a number of W", 8 * seen.held / numbers);
    line("MB of W", seen.held / 1e6);
    line("MB of a pass", seen.pass / 1e6);
  };
  add("float", std::nullopt);
  for (const FourBit type : kTypes) add(to_string(type), type);
  return out;
}

std::vector<Line> by_figure(const std::vector<Line>& lines) {  // in order of first appearance
  std::vector<Line> out;
  for (const Line& first : lines) {
    const auto same = [&](const Line& line) { return line.figure == first.figure; };
    if (std::any_of(out.begin(), out.end(), same)) continue;
    std::copy_if(lines.begin(), lines.end(), std::back_inserter(out), same);
  }
  return out;
}

std::string table_csv(const std::vector<Line>& lines, const std::vector<Claim>& claims) {
  std::string text = csv_line({"figure", "base", "seed", "value", "low", "high", "verdict"});
  const auto add = [&](const Line& line, const std::string& verdict) {
    text += csv_line({line.figure, line.method, "all", exact(line.all.mean), exact(line.all.low),
                      exact(line.all.high), verdict});
    for (std::size_t i = 0; i < line.values.size(); ++i) {
      text += csv_line(
          {line.figure, line.method, std::to_string(i + 1), exact(line.values[i]), "", "", ""});
    }
  };
  for (const Line& line : lines) add(line, "");
  for (const Claim& claim : claims) {
    add({claim.name, claim.text, claim.values, t_interval(claim.values)}, claim.verdict());
  }
  return text;
}

std::string shown(const Interval& x) {
  if (std::isnan(x.mean)) return "-";
  if (std::isnan(x.low)) return fmt::format("{:.4g}", x.mean);
  return fmt::format("{:.4g} [{:.4g}, {:.4g}]", x.mean, x.low, x.high);
}

void print(const std::vector<Line>& lines, const std::vector<Claim>& claims,
           const std::vector<TunedCurve>& tuned) {
  for (const TunedCurve& curve : tuned) {
    fmt::print("{} at lr {:.3g}\n", curve.curve.method, curve.lr);
  }
  std::string figure;
  for (const Line& line : lines) {
    if (line.figure != figure) fmt::print("{}\n", line.figure);
    figure = line.figure;
    fmt::print("  {:<8}{}\n", line.method, shown(line.all));
  }
  fmt::print("\n");
  for (const Claim& claim : claims) {
    fmt::print("{:<10} {:<12} {}: {}, p {:.2g}\n", claim.verdict(), claim.name, claim.text,
               shown(t_interval(claim.values)), claim.adjusted_p);
  }
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("quantized", "what 4 bits cost a network, and how much an adapter gives back");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  s.shrink(flags);
  const TuneSettings tune = s.tune();
  make_optimizer_spec(parse_spec(s.optimizer));
  if (s.projector.find_first_of("@%") != s.projector.npos) {
    throw std::invalid_argument("--projector '" + s.projector + "' has a place; --target says it");
  }
  if (s.training.eval_every > s.training.steps) {
    throw std::invalid_argument(fmt::format("--eval-every {} is more than --steps {}",
                                            s.training.eval_every, s.training.steps));
  }
  Quantized quantized(s);
  const TaskFamily family =
      prepare_task(parse_spec(s.task),
                   {.data = s.data, .cache = s.cache, .shift = s.shift, .compute = Compute::real});
  RunFolder folder("quantized", folder_flags);
  Progress progress(s.quiet);
  const Sweep* made = nullptr;
  s.training.watch = [&](const Watched& seen) { quantized.watch(seen, made->task(seen.run.seed)); };
  Sweep sweep(family, s.training, s.jobs, folder, progress);
  made = &sweep;
  sweep.prepare(s.seeds.all());
  const Task& first = sweep.task(1);
  for (const Curve& curve : quantized.curves) {
    const Adaptation adaptation = adaptation_of(curve.method, s.training);
    Weights weights = started(adaptation, first.start());
    const auto planned = plan(adaptation, weights, first.before_softmax());
    progress.note(curve.method + "\n" + describe(planned));
    Optimizer trial(
        {.spec = make_optimizer_spec(parse_spec(curve.optimizer)), .steps = s.training.steps});
    apply(planned, weights, 1, trial);  // these refuse what has no meaning together
    const std::size_t one = 0;
    first.loss_and_gradients(weights, std::span(&one, 1), {}, {});
  }
  const std::vector<Line> of_memory = memory(s);  // while this is the only thread
  nlohmann::ordered_json metadata = machine_metadata("quantized");
  metadata["seeds"] = s.seeds.reported();
  metadata["tuning_seeds"] = s.seeds.tuning();
  for (const auto& [key, value] : family.record) metadata[key] = value;
  folder.begin(flags.resolved(), metadata);
  sweep.restore(s.seeds.reported());
  const std::vector<TunedCurve> tuned = run_tuned(sweep, progress, quantized.curves, tune);
  quantized.fill(sweep, tuned);
  std::vector<Line> all = quantized.lines();
  all.insert(all.end(), of_memory.begin(), of_memory.end());
  const std::vector<Line> lines = by_figure(all);
  const std::vector<Claim> claims = quantized.claims();
  folder.write("table.csv", table_csv(lines, claims));
  nlohmann::ordered_json verdicts = nlohmann::ordered_json::array();
  for (const Claim& claim : claims) {
    verdicts.push_back({{"claim", claim.text}, {"verdict", claim.verdict()}});
  }
  finish_run(folder, nlohmann::ordered_json::object({{"claims", verdicts}}), s.quiet, [&] {
    progress.clear();
    print(lines, claims, tuned);
  });
  require_some_run(tuned, folder);
  return 0;
}

}  // namespace

int quantized_main(int argc, const char* const* argv) {
  return run_program("quantized", [&] { return run(argc, argv); });
}

}  // namespace gradview
