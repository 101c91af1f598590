#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/experiments/compare/compare.hpp"
#include "gradview/experiments/compare/knob.hpp"
#include "gradview/experiments/driver/help.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/tuning.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

const Range kAtLeastOne{.least = 1, .most = 1e9};

void require_distinct(const std::string& flag, const std::vector<std::string>& specs) {
  if (specs.empty()) throw std::invalid_argument(flag + " needs at least one spec");
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (std::find(specs.begin(), specs.begin() + static_cast<std::ptrdiff_t>(i), specs[i]) !=
        specs.begin() + static_cast<std::ptrdiff_t>(i)) {
      throw std::invalid_argument(flag + " names '" + specs[i] + "' twice");
    }
  }
}

std::vector<Override> read_overrides(const std::vector<std::string>& words,
                                     const std::vector<std::string>& projectors) {
  if (words.size() % 2 != 0) {
    throw std::invalid_argument(
        "--override takes pairs: a regular expression, then options as in a spec");
  }
  std::vector<Override> out;
  for (std::size_t i = 0; i < words.size(); i += 2) {
    out.push_back({words[i], parse_options(words[i + 1])});
    for (const auto& option : out.back().options) {
      const bool known =
          std::any_of(projectors.begin(), projectors.end(), [&](const std::string& p) {
            const auto& options = find_projector(parse_placed(p).projector.name).options;
            return std::any_of(options.begin(), options.end(),
                               [&](const OptionHelp& o) { return o.key == option.first; });
          });
      if (!known) {
        throw std::invalid_argument("--override: no projector in this call has an option '" +
                                    option.first + "'");
      }
    }
  }
  return out;
}

// Every spec that the listed ones stand for, once each.
std::vector<std::string> all_alternatives(const std::vector<std::string>& listed) {
  std::vector<std::string> all;
  for (const std::string& spec : listed) {
    const auto more = alternatives(spec);
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

void require_enough(std::size_t trials, const std::vector<std::string>& projectors) {
  for (const std::string& projector : projectors) {
    const std::size_t values = alternatives(projector).size();
    if (trials >= least_trials(values)) continue;
    throw std::invalid_argument(fmt::format(
        "--trials {} is too few for '{}': the first grid has {} rates{}, so at least {}", trials,
        projector, least_trials(1),
        values > 1 ? fmt::format(", its knob {} more values", values - 1) : "",
        least_trials(values)));
  }
}

}  // namespace

void CompareSettings::declare(Flags& flags) {
  flags.list(
      "projector", projectors, "SPEC",
      "curves; --list names them, --help-projector NAME tells more; one option may be a knob "
      "with values to choose from, lora:rank=8,lr_ratio=1|4|16");
  flags.list("optimizer", optimizers, "SPEC",
             "crossed with the projectors; options in --help-optimizer");
  flags.text("task", task, "SPEC", "what is learned; --list-tasks");
  flags.text("shift", context.shift, "SHIFT",
             "rotate:DEGREES | classes, for fashion (rotate:90 if not given)");
  flags.text("data", context.data, "DIR",
             "folder of the data set (if not given: where its package puts it)");
  flags.text("cache", context.cache, "DIR",
             "folder for pre-trained networks (if not given: the user's cache)");
  flags.count("steps", training.steps, kAtLeastOne, "training steps");
  flags.count("batch-size", training.batch_size, kAtLeastOne, "examples in a step");
  flags.count("accumulate", training.accumulate, kAtLeastOne,
              "micro-batches that a step's batch is cut into");
  flags.count("init-batches", training.init_batches, kAtLeastOne,
              "batches whose mean gradient a method starts from that wants one");
  flags.text("schedule", training.schedule, "SPEC",
             "constant | linear | cosine, with :warmup=N,final=F,restart_every=K,restart_warmup=M");
  flags.number("clip", clip, {.least = 0, .open_below = true}, "none",
               "largest norm of all factor gradients");
  flags.text(
      "lr", lr, "X|A,B,C",
      "one rate, or exactly these to choose from; without it each curve is tuned, under each "
      "value of its knob");
  flags.count("trials", trials, {.least = 1, .most = kMostTrials}, "until nothing is better",
              "exactly so many (rate, knob) per curve: a grid of rates, the knob's other values at "
              "the best one, then round the best of all");
  flags.text("best-from", best_from, "DIR",
             "take each curve's rate and knob from an earlier run folder");
  compute.declare(flags);
  flags.count("seeds", seeds, {.least = 1, .most = 1000}, "reported seeds");
  flags.count("tune-seeds", tune_seeds, {.least = 1, .most = 1000},
              "further seeds that rates are chosen on");
  flags.count("eval-every", eval_every, kAtLeastOne, "steps/12",
              "steps between two rows of a reported run; twice that while tuning");
  flags.number("margin", margin, {.least = 0}, "points of accuracy that count as equivalent");
  flags.choice("group-by", group_by, {"none", "state"},
               "state: rows by the bytes of their state, as a share of what Adam keeps for "
               "full-rank training of the same matrices");
  flags.list("contrast", contrasts, "SPEC CONTROL",
             "pairs that are compared with each other, beside the first");
  flags.text("target", training.target, "REGEX",
             "matrices that are adapted; SPEC@REGEX says it for one curve");
  flags.text("also", training.also, "REGEX",
             "further parameters, trained in full; SPEC@REGEX&REGEX adds some for one curve");
  flags.choice("rest", rest, {"frozen", "full"}, "the other matrices");
  flags.choice("biases", biases, {"frozen", "trained"}, "vectors, for every method alike");
  flags.list("override", overrides, "REGEX OPTIONS", "other projector options for some matrices");
  jobs = cores();
  flags.count("jobs", jobs, {.least = 1, .most = 1024}, "runs at the same time");
  flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside a run");
  flags.flag("quiet", quiet, "no progress, no table of parameters");
  flags.print("list", "", "name the projectors and end",
              [](const std::string&) { print_projectors(); });
  flags.print("help-projector", "NAME", "options of a projector", print_projector_help);
  flags.print("help-optimizer", "", "options of the optimizers",
              [](const std::string&) { print_optimizers(); });
  flags.print("list-tasks", "", "name the tasks and their options", [](const std::string&) {
    for (const TaskKind& kind : tasks()) {
      fmt::print("{:<12}{}\n", kind.name, kind.summary);
      print_options(kind.options);
    }
  });
}

void CompareSettings::finish(const Flags& flags) {
  flags.exclude("lr", "best-from");
  flags.exclude("trials", "lr");
  flags.exclude("trials", "best-from");
  const std::vector<std::string> specs = all_alternatives(projectors);
  require_distinct("--projector", specs);
  require_distinct("--optimizer", optimizers);
  for (const std::string& projector : specs) {
    check_projector(parse_placed(projector).projector);
  }
  for (const std::string& optimizer : optimizers) make_optimizer_spec(parse_spec(optimizer));
  training.overrides = read_overrides(overrides, projectors);
  if (trials) require_enough(*trials, projectors);
  for (const std::string& projector : specs) {
    for (const Override& each : adaptation_of(projector, training).overrides) {
      check_projector(with_options(parse_placed(projector).projector, each.options));
    }
  }
  if (contrasts.size() % 2 != 0)
    throw std::invalid_argument("--contrast takes pairs: a spec, then its control");
  for (const std::string& spec : contrasts) {
    if (flags.given("contrast") &&
        std::find(projectors.begin(), projectors.end(), spec) == projectors.end()) {
      throw std::invalid_argument("--contrast '" + spec +
                                  "' is not among the projectors of this call" +
                                  did_you_mean(spec, projectors));
    }
  }
  std::vector<std::string> kept;  // what run.json records is what was done
  for (const auto& [method, control] : contrast_pairs()) {
    kept.push_back(method);
    kept.push_back(control);
  }
  contrasts = kept;
  require_schedule_fits(training.schedule, training.steps);
  listed_rates();
  if (training.accumulate > training.batch_size) {
    throw std::invalid_argument(fmt::format("--accumulate {} cuts a batch of {} into empty parts",
                                            training.accumulate, training.batch_size));
  }
  if (eval_every && *eval_every > training.steps) {
    throw std::invalid_argument(
        fmt::format("--eval-every {} is more than --steps {}", *eval_every, training.steps));
  }
  training.eval_every = eval_every.value_or(std::max<std::size_t>(1, training.steps / 12));
  if (clip) training.clip = *clip;
  training.train_rest = rest == "full";
  training.train_biases = biases == "trained";
  context.compute = compute.resolve("compare");
}

std::vector<Curve> CompareSettings::curves() const {
  std::vector<Curve> all;
  for (const std::string& optimizer : optimizers) {
    for (const std::string& projector : projectors) all.push_back({projector, optimizer});
  }
  return all;
}

std::vector<std::uint64_t> CompareSettings::reported_seeds() const {
  std::vector<std::uint64_t> all;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) all.push_back(seed);
  return all;
}

std::vector<std::uint64_t> CompareSettings::tuning_seeds() const {
  std::vector<std::uint64_t> all;
  for (std::uint64_t seed = 1; seed <= tune_seeds; ++seed) all.push_back(1000 + seed);
  return all;
}

std::vector<std::pair<std::string, std::string>> CompareSettings::contrast_pairs() const {
  const auto here = [&](const std::string& spec) {
    return std::find(projectors.begin(), projectors.end(), spec) != projectors.end();
  };
  std::vector<std::pair<std::string, std::string>> pairs;
  for (std::size_t i = 0; i + 1 < contrasts.size(); i += 2) {
    if (here(contrasts[i]) && here(contrasts[i + 1]))
      pairs.emplace_back(contrasts[i], contrasts[i + 1]);
  }
  return pairs;
}

std::vector<double> CompareSettings::listed_rates() const {
  std::vector<double> rates;
  if (lr.empty()) return rates;
  for (const std::string& word : split(lr, ',')) {
    rates.push_back(checked_number("--lr", word, {.least = 0, .open_below = true}));
  }
  std::sort(rates.begin(), rates.end());
  if (std::adjacent_find(rates.begin(), rates.end()) != rates.end()) {
    throw std::invalid_argument("--lr names a rate twice");
  }
  return rates;
}

}  // namespace gradview
