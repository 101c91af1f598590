#include "gradview/experiments/context/context.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/context/extension.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/tasks/bytes.hpp"
#include "gradview/experiments/tuned.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
const char* const kNames[kWays] = {"full fine-tuning", "LoRA", "LoRA + embeddings + norms"};
const char* const kAttentions[kAttends] = {"full", "sparse"};

struct Settings {
  std::string model = "layers=3,heads=6,width=96,length=64,pretrain_batch=32,windows=64";
  std::string lora = "lora:rank=8,alpha=16", target = "q_proj|k_proj|v_proj|o_proj";
  std::string also = "embed|norm", optimizer = "adam", lr;
  std::vector<std::string> length_words{"128", "256", "512", "1024", "2048", "4096"};
  std::size_t factor = 4, group = 0, bucket = 16, repeats = 9, jobs = 1, threads = 1;
  double margin = 0.01;
  Seeds seeds{.report = 5, .tune = 1};
  TrainingSettings training;
  TaskContext context;
  TimingSettings timing;
  std::vector<double> rates;
  bool refine = false, quick = false, quiet = false;

  Settings() {
    training.steps = 80;
    training.batch_size = 4;
    training.clip = 1;
  }

  void declare(Flags& flags) {
    const Range positive{.least = 1, .most = 1e9};
    flags.text("model", model, "OPTIONS", "of the task bytes: sizes, old length, pre-training");
    flags.count("factor", factor, {.least = 2, .most = 64}, "new length over the old one");
    flags.count("group", group, {.most = 1 << 20},
                "of the sparse attention; 0: a quarter of the new length");
    flags.text("lora", lora, "SPEC", "the projector of the two curves that are not full");
    flags.text("target", target, "REGEX", "the matrices that it is on");
    flags.text("also", also, "REGEX", "what the third curve trains in full beside it");
    flags.text("optimizer", optimizer, "SPEC", "for all");
    flags.count("steps", training.steps, positive, "training steps at the new length");
    flags.count("batch-size", training.batch_size, positive, "windows in a step");
    flags.text("schedule", training.schedule, "SPEC",
               "constant | linear | cosine, with :warmup=N,final=F");
    flags.text("lr", lr, "X|A,B,C",
               "one rate, or exactly these to choose from; without it each curve is tuned");
    flags.flag("refine", refine, "tune in steps of 10^(1/8) round the best half-decade");
    flags.count("seeds", seeds.report, positive, "reported seeds");
    flags.count("tune-seeds", seeds.tune, positive, "further seeds that rates are chosen on");
    flags.count("bucket", bucket, positive, "positions whose losses are averaged");
    flags.number("margin", margin, {.least = 0}, "nats per byte that count as no difference");
    flags.list("lengths", length_words, "N", "sequences whose step is timed");
    flags.count("repeats", repeats, {.least = 2, .most = 1000}, "steps timed of each");
    flags.text("data", context.data, "DIR", "folder of old.txt; scripts/fetch-texts makes it");
    flags.text("cache", context.cache, "DIR", "folder for pre-trained networks");
    jobs = cores();
    flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
    flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside a run");
    flags.flag("quick", quick, "a small model, few steps, two seeds: for a look, not for a result");
    flags.flag("quiet", quiet, "no progress");
  }

  // What --quick means where the call does not say otherwise.
  void quicken(const Flags& flags) {
    const auto set = [&](const char* name, auto& value, const auto& quick_value) {
      if (quick && !flags.given(name)) value = quick_value;
    };
    set("model", model,
        "layers=2,heads=2,width=32,length=32,pretrain_batch=32,pretrain_steps=300,windows=32");
    set("steps", training.steps, 40);
    set("seeds", seeds.report, 2);
    set("lr", lr, "3e-3");
    set("repeats", repeats, 3);
    set("lengths", length_words, std::vector<std::string>{"128", "512"});
  }

  void finish() {
    const ByteOptions bytes = read_options<ByteOptions>(task());
    if (bytes.arch != ByteArchitecture::llama || bytes.group > 0) {
      throw std::invalid_argument("--model is for arch=llama, without a group of its own");
    }
    const std::size_t length = bytes.length * factor;
    if (group == 0) group = std::max<std::size_t>(2, length / 4);
    if (group < 2 || group >= length) {
      throw std::invalid_argument(
          fmt::format("--group is {}; expected 2 to {}, below the new length", group, length - 1));
    }
    if (bytes.length % bucket != 0 || length / bucket < 4) {
      throw std::invalid_argument(
          fmt::format("--bucket is {}; expected a divisor of the old length {}, at most a quarter "
                      "of the new one",
                      bucket, bytes.length));
    }
    make_optimizer_spec(parse_spec(optimizer));
    require_schedule_fits(training.schedule, training.steps);
    Weights shapes;
    for (const WeightSpec& spec : bytes.model().weights()) shapes.add(spec.name, zeros(spec.shape));
    for (const Curve& curve : curves()) plan(adaptation_of(curve.method, training), shapes, {});
    if (!lr.empty()) {
      for (const std::string& word : split(lr, ',')) {
        rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
      }
    }
    timing.repeats = repeats;
    timing.parts = 4;
    for (const std::string& word : length_words) {
      timing.lengths.push_back(checked_count("--lengths", word, {.least = 8, .most = 1 << 17}));
    }
    std::sort(timing.lengths.begin(), timing.lengths.end());
    training.eval_every = training.steps;
    context.shift = "length:" + std::to_string(factor);
  }
  Spec task() const { return {"bytes", parse_options(model)}; }
  std::vector<Curve> curves() const {
    return {{"full@.&norm", optimizer},
            {lora + "@" + target, optimizer},
            {lora + "@" + target + "&" + also, optimizer}};
  }
};

std::vector<double> bucketed(const std::vector<double>& losses, std::size_t bucket) {
  std::vector<double> means(losses.size() / bucket);
  for (std::size_t t = 0; t < means.size() * bucket; ++t) {
    means[t / bucket] += losses[t] / static_cast<double>(bucket);
  }
  return means;
}

std::shared_ptr<const ByteTask> first_task(const TaskFamily& family) {
  return std::dynamic_pointer_cast<const ByteTask>(family.make(1));
}

// All curves with one attention, in a run folder of its own within `parent`.
void extend(Extension& e, Attends attends, const Settings& s, const TaskFamily& family,
            const RunFolder& parent, const Json& options) {
  const std::string path = parent.file(kAttentions[attends]);
  const bool resume = parent.resuming() && std::filesystem::exists(path + "/run.json");
  Progress progress(s.quiet);
  RunFolder folder("context", {.out = path, .overwrite = !resume, .resume = resume});
  folder.begin(options, machine_metadata("context-runs"));
  TrainingSettings training = s.training;
  const auto task = first_task(family);
  training.watch = [&](const Watched& seen) {
    if (seen.step != s.training.steps) return;
    for (const bool cut : {false, true}) {
      const auto losses = task->losses(seen.weights, Split::test, cut ? e.old_length : 0);
      const std::vector<double> means = bucketed(losses, s.bucket);
      for (std::size_t b = 0; b < means.size(); ++b) {
        seen.add("from position " + std::to_string(b * s.bucket), cut ? "cut loss" : "loss",
                 means[b]);
      }
    }
  };
  Sweep sweep(family, training, s.jobs, folder, progress);
  progress.note(fmt::format("{} attention: {} curves", kAttentions[attends], int{kWays}));
  for (const Curve& curve : s.curves()) {
    const auto planned =
        plan(adaptation_of(curve.method, training), task->start(), task->before_softmax());
    if (attends == kEverywhere) progress.note(curve.method + "\n" + describe(planned));
  }
  sweep.prepare(s.seeds.all());
  sweep.restore(s.seeds.reported());
  const std::vector<TunedCurve> tuned =
      run_tuned(sweep, progress, s.curves(),
                {.seeds = s.seeds, .judge = final_loss, .rates = s.rates, .refine = s.refine});
  for (std::size_t way = 0; way < kWays; ++way) {
    const TunedCurve& curve = tuned[way];
    Extended& out = e.curves[attends][way];
    out = {kAttentions[attends], kNames[way], curve.curve.method, curve.lr, 0, {}, {}, {}};
    out.loss = over_seeds(curve, [](const Run& run) {
      const Row* row = run.last("test");
      return run.diverged() || !row ? kNaN : row->loss.value_or(kNaN);
    });
    for (const Run* run : curve.runs) {
      out.trainable = run->rows.back().trainable;
      const auto of = [&](const std::string& key) {
        std::vector<double> losses;
        for (const LayerRow& row : run->layers) {
          if (row.key == key) losses.push_back(row.value);
        }
        if (losses.size() != e.scaled.size()) losses.assign(e.scaled.size(), kNaN);
        return losses;
      };
      out.buckets.push_back(of("loss"));
      out.cut.push_back(of("cut loss"));
    }
  }
}

// The model as it is, by what is done to the positions.
std::vector<std::pair<std::string, const std::vector<double>*>> untrained(const Extension& e) {
  return {{"no training", &e.scaled},
          {"no training, positions not scaled", &e.unscaled},
          {fmt::format("no training, cut to {}", e.old_length), &e.cut}};
}

std::string table_csv(const Extension& e, const Settings& s) {
  std::string text =
      csv_line({"attention", "method", "spec", "lr", "trainable", "seed", "loss", "low", "high",
                "bits_per_byte", "minus_full", "minus_full_low", "minus_full_high"});
  const auto cell = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
  const auto line = [&](const Extended& c, const std::string& seed, const Interval& loss,
                        const Interval& difference) {
    text +=
        csv_line({c.attention, c.name, c.method, exact(c.lr), std::to_string(c.trainable), seed,
                  cell(loss.mean), cell(loss.low), cell(loss.high), cell(loss.mean / std::log(2.0)),
                  cell(difference.mean), cell(difference.low), cell(difference.high)});
  };
  for (const auto& [name, buckets] : untrained(e)) {
    line({"", name, "", 0, 0, {}, {}, {}}, "all", {mean_of(*buckets), kNaN, kNaN},
         {kNaN, kNaN, kNaN});
  }
  const std::vector<double>& full = e.curves[kEverywhere][kFull].loss;
  for (const auto& ways : e.curves) {
    for (const Extended& curve : ways) {
      const std::vector<double> less = differences(curve.loss, full);
      line(curve, "all", t_interval(curve.loss), t_interval(less));
      for (std::size_t k = 0; k < curve.loss.size(); ++k) {
        line(curve, std::to_string(s.seeds.reported()[k]), {curve.loss[k], kNaN, kNaN},
             {less[k], kNaN, kNaN});
      }
    }
  }
  return text;
}

std::string positions_csv(const Extension& e, const Settings& s) {
  std::string text = csv_line({"attention", "method", "seed", "position", "loss"});
  const auto lines = [&](const std::string& attention, const std::string& name,
                         const std::string& seed, const std::vector<double>& buckets) {
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      text += csv_line({attention, name, seed, std::to_string(b * e.bucket), exact(buckets[b])});
    }
  };
  for (const auto& [name, buckets] : untrained(e)) lines("", name, "", *buckets);
  for (const auto& ways : e.curves) {
    for (const Extended& curve : ways) {
      for (std::size_t k = 0; k < curve.buckets.size(); ++k) {
        const std::string seed = std::to_string(s.seeds.reported()[k]);
        lines(curve.attention, curve.name, seed, curve.buckets[k]);
        lines(curve.attention, fmt::format("{}, cut to {}", curve.name, e.old_length), seed,
              curve.cut[k]);
      }
    }
  }
  return text;
}

std::string shown(const Interval& i) {
  return std::isnan(i.low) ? fmt::format("{:.4f}", i.mean)
                           : fmt::format("{:.4f} ±{:.4f}", i.mean, i.high - i.mean);
}

void print(const Extension& e, const std::vector<TimedLength>& times,
           const std::vector<ContextClaim>& claims) {
  fmt::print("test loss in nats per byte at {} tokens, pre-trained at {}; 95 % t intervals\n",
             e.new_length, e.old_length);
  fmt::print("{:<28}{:<12}{:>10}{:>10}{:>20}{:>22}{:>14}\n", "method", "attention", "lr", "trained",
             "loss", "less full's", "bits per byte");
  const std::vector<double>& full = e.curves[kEverywhere][kFull].loss;
  for (const auto& [name, buckets] : untrained(e)) {
    const double loss = mean_of(*buckets);
    fmt::print("{:<40}{:>10}{:>10}{:>20.4f}{:>22}{:>14.3f}\n", name, "", 0, loss, "",
               loss / std::log(2.0));
  }
  for (const auto& ways : e.curves) {
    for (const Extended& c : ways) {
      const Interval loss = t_interval(c.loss);
      const bool reference = &c == &e.curves[kEverywhere][kFull];
      fmt::print("{:<28}{:<12}{:>10.2g}{:>10}{:>20}{:>22}{:>14.3f}\n", c.name, c.attention, c.lr,
                 c.trainable, shown(loss),
                 reference ? "" : shown(t_interval(differences(c.loss, full))),
                 loss.mean / std::log(2.0));
    }
  }
  fmt::print("\n{:<10}{:>8}{:>10}{:>18}{:>28}\n", "length", "group", "tokens", "ms, full",
             "ms, sparse / full");
  for (const TimedLength& t : times) {
    const Interval ratio = t.ratio();
    fmt::print("{:<10}{:>8}{:>10}{:>18.1f}{:>28}\n", t.length, t.group, t.tokens,
               1e3 * median(t.full),
               fmt::format("{:.3f} [{:.3f}, {:.3f}]", ratio.mean, ratio.low, ratio.high));
  }
  fmt::print("\n");
  for (const ContextClaim& c : claims) {
    fmt::print("{:<10} {}\n           {}\n", c.verdict, c.text, c.evidence);
  }
}

int run(int argc, const char* const* argv) {
  const auto begin = std::chrono::steady_clock::now();
  Settings s;
  FolderFlags folder_flags;
  Flags flags(
      "context",
      "a longer context by full fine-tuning, LoRA, and LoRA + embeddings + norms, with full "
      "and with shifted sparse attention");
  s.declare(flags);
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  s.quicken(flags);
  const Json options = flags.resolved();
  s.finish();
  set_threads(s.threads);

  RunFolder folder("context", folder_flags);
  TaskFamily families[kAttends];
  for (const std::size_t attends : {kEverywhere, kInGroups}) {
    const std::string group = std::to_string(attends == kInGroups ? s.group : 0);
    families[attends] = prepare_task(with_options(s.task(), {{"group", group}}), s.context);
  }
  Json metadata = machine_metadata("context");
  for (const auto& [key, value] : families[kEverywhere].record) metadata["task"][key] = value;
  metadata["group"] = s.group;
  metadata["seeds"] = s.seeds.reported();
  metadata["tuning_seeds"] = s.seeds.tuning();
  folder.begin(options, metadata);
  if (!s.quiet) fmt::print(stderr, "context: making or loading the pre-trained model\n");
  const auto task = first_task(families[kEverywhere]);
  LanguageModel unscaled = task->model();
  unscaled.trunk.rope->factor = 1;
  Extension e;
  e.new_length = unscaled.trunk.positions;
  e.old_length = e.new_length / s.factor;
  e.bucket = s.bucket;
  const auto losses = [&](std::size_t cut, const LanguageModel& model) {
    return bucketed(task->losses(task->start(), Split::test, cut, model), s.bucket);
  };
  e.scaled = losses(0, task->model());
  e.unscaled = losses(0, unscaled);
  e.cut = losses(e.old_length, unscaled);
  const std::string positions = positions_csv(e, s);  // so far
  if (!folder.resuming()) folder.append_rows("positions.csv", positions);
  for (const Attends attends : {kEverywhere, kInGroups}) {
    extend(e, attends, s, families[attends], folder, options);
  }
  folder.write("table.csv", table_csv(e, s));
  folder.write("positions.csv", positions_csv(e, s));
  Training training;
  for (const Planned& p :
       plan(adaptation_of(s.curves()[kMore].method, s.training), task->start(), {})) {
    if (p.projector) training.trained.insert(p.name);
  }
  if (!s.quiet) fmt::print(stderr, "timing a step of each length\n");
  const std::vector<TimedLength> times =
      time_steps(task->model(), task->start(), training, s.timing);
  folder.write("times.csv", times_csv(times));
  const std::vector<ContextClaim> claims = judge_context(e, times, s.margin);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  Json summary{{"wall_seconds", seconds.count()}, {"margin", s.margin}};
  for (const ContextClaim& c : claims) {
    summary["claims"].push_back(
        {{"claim", c.text}, {"verdict", c.verdict}, {"evidence", c.evidence}});
  }
  finish_run(folder, summary, s.quiet, [&] { print(e, times, claims); });
  bool any = false;
  for (const auto& ways : e.curves) {
    for (const Extended& curve : ways) {
      any = any || std::any_of(curve.loss.begin(), curve.loss.end(),
                               [](double x) { return std::isfinite(x); });
    }
  }
  if (!any) throw DivergedError("every run diverged; see " + folder.file("full/metrics.csv"));
  return 0;
}

}  // namespace

int context_main(int argc, const char* const* argv) {
  return run_program("context", [&] { return run(argc, argv); });
}

}  // namespace gradview
