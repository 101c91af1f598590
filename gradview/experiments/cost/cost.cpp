#include "gradview/experiments/cost/cost.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/cost/reasons.hpp"
#include "gradview/experiments/driver/finish.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

struct Settings {
  Plan plan{.model = {.layers = 2}};
  std::optional<std::size_t> hidden, last;
  std::size_t refresh_every = 200, threads = 2;
  std::vector<std::string> compute;
  Network network;
  bool quiet = false;
};

constexpr double kMilli = 1e3, kMega = 1e-6, kGiga = 1e-9;

std::string shown(const Estimate& e, double unit, int digits) {
  const std::string middle = fmt::format("{:.{}f}", e.median * unit, digits);
  if (std::isnan(e.low)) return middle;
  return fmt::format("{} [{:.{}f}, {:.{}f}]", middle, e.low * unit, digits, e.high * unit, digits);
}

std::string shown_share(const Estimate& e) {
  return std::isnan(e.median) ? "" : shown(e, 100, 0) + " %";
}

Estimate part_of(const Case& one, std::size_t part) {
  std::vector<double> values;
  for (const SecondsOfParts& round : one.rounds) values.push_back(round[part]);
  return estimate(values);
}

Estimate step_of(const Case& one) {
  std::vector<double> values;
  for (std::size_t i = 0; i < one.rounds.size(); ++i) values.push_back(one.step(i));
  return estimate(values);
}

Work whole_step(const StepWork& work) {
  Work sum;
  for (const Work& part : work.parts) sum += part;
  return sum;
}

void print_steps(const std::vector<Case>& cases, const Findings& findings) {
  const Scenario* scenario = nullptr;
  const Arithmetic* compute = nullptr;
  for (const Case& one : cases) {
    if (one.scenario != scenario || one.compute != compute) {
      scenario = one.scenario;
      compute = one.compute;
      fmt::print("{}{}, {}: ms\n{:<14}", &one == cases.data() ? "" : "\n", scenario->name,
                 compute->name, "method");
      for (const char* part : {"forward", "δ", "δᵀx", "project", "rule", "update"}) {
        fmt::print("{:>9}", part);
      }
      fmt::print("{:>26}{:>9}{:>9}{:>10}{:>10}\n", "step", "Gflop", "MB", "state MB", "sent MB");
    }
    const StepWork& work = findings.work(one);
    fmt::print("{:<14}", one.method->name);
    for (std::size_t part = 0; part < kParts.size(); ++part) {
      fmt::print("{:>9.2f}", part_of(one, part).median * kMilli);
    }
    fmt::print("{:>26}{:>9.2f}{:>9.1f}{:>10.2f}{:>10.2f}\n", shown(step_of(one), kMilli, 2),
               whole_step(work).flops * kGiga, whole_step(work).bytes * kMega,
               static_cast<double>(one.state_bytes) * kMega, work.exchange_bytes * kMega);
  }
  for (const Case& one : cases) {
    if (one.refreshes.empty()) continue;
    const auto every = static_cast<double>(one.method->refresh_every);
    const double seconds = estimate(one.refreshes).median;
    const StepWork& work = findings.work(one);
    fmt::print(
        "\n{}, {}: choosing the subspace takes {:.0f} ms, {:.1f} Gflop and an exchange of {:.1f} "
        "MB; "
        "every {} steps: {:.2f} ms, {:.2f} Gflop and {:.2f} MB a step",
        one.method->name, one.scenario->name, seconds * kMilli, work.refresh.flops * kGiga,
        work.refresh_exchange_bytes * kMega, one.method->refresh_every, seconds / every * kMilli,
        work.refresh.flops / every * kGiga, work.refresh_exchange_bytes / every * kMega);
  }
  fmt::print("\n");
}

void print_reasons(const Settings& s, const Findings& findings) {
  fmt::print(
      "\nfrom full, all layers, to lora: what is saved, and which share of it "
      "({} workers, ring, {} Gbit/s, not overlapped)\n{:<14}{:<16}{:>28}{:>24}{:>24}\n",
      s.network.workers, exact(s.network.gigabits), "trained", "reason", "saved ms", "of computing",
      "with communication");
  for (const Reason& r : findings.attribution().reasons) {
    fmt::print("{:<14}{:<16}{:>28}{:>24}{:>24}\n", r.scenario, r.reason,
               shown(r.seconds, kMilli, 2), shown_share(r.share), shown_share(r.together));
  }
  if (s.compute.size() < 2) {
    fmt::print("precision: one kind of arithmetic in this run, so its share is not known\n");
  }
  fmt::print(
      "the article's reasons: fewer parameters (fewer matrices, fewer numbers), communication, "
      "precision; not the factorisation\n\n");
  for (const auto& balance : findings.attribution().balances) {
    fmt::print(
        "{}: most is saved by: {}; communication saves more than all the rest below {} Gbit/s\n",
        balance.scenario, findings.attribution().most(balance.scenario),
        shown(balance.gigabits, 1, 2));
  }
  fmt::print("\n");
  for (const Claim& claim : findings.claims()) {
    fmt::print("{:<10} {}: time {}, operations {:.2f} times\n", claim.verdict(), claim.text,
               shown(claim.ratio, 1, 2), claim.counted);
  }
}

std::string table_csv(const std::vector<Case>& cases, const Findings& findings) {
  std::string text = csv_line({"scenario", "method", "projector", "optimizer", "compute", "part",
                               "flops", "bytes", "median_seconds", "low_seconds", "high_seconds"});
  for (const Case& one : cases) {
    const StepWork& work = findings.work(one);
    const auto row = [&](const char* part, const Work& w, const Estimate& e) {
      text += csv_line({one.scenario->name, one.method->name, one.method->projector,
                        one.method->optimizer, one.compute->name, part, exact(w.flops),
                        exact(w.bytes), exact(e.median), exact(e.low), exact(e.high)});
    };
    for (std::size_t part = 0; part < kParts.size(); ++part) {
      row(kParts[part], work.parts[part], part_of(one, part));
    }
    row("step", whole_step(work), step_of(one));
    if (!one.refreshes.empty()) row("refresh", work.refresh, estimate(one.refreshes));
    const Estimate none = estimate({});
    row("state", {0, static_cast<double>(one.state_bytes)}, none);
    row("exchange", {0, work.exchange_bytes}, none);
    if (!one.refreshes.empty()) row("refresh_exchange", {0, work.refresh_exchange_bytes}, none);
  }
  return text;
}

std::string reasons_csv(const Attribution& found) {
  std::string text =
      csv_line({"scenario", "reason", "saved_seconds", "saved_low_seconds", "saved_high_seconds",
                "share_of_computing_seconds", "share_low_of_computing_seconds",
                "share_high_of_computing_seconds", "share_of_all_seconds",
                "share_low_of_all_seconds", "share_high_of_all_seconds"});
  for (const Reason& r : found.reasons) {
    std::vector<std::string> fields{r.scenario, r.reason};
    for (const Estimate& e : {r.seconds, r.share, r.together}) {
      for (const double x : {e.median, e.low, e.high}) fields.push_back(exact(x));
    }
    text += csv_line(fields);
  }
  return text;
}

nlohmann::ordered_json in_json(const Estimate& e) {
  return {{"median", e.median}, {"low", e.low}, {"high", e.high}};  // NaN becomes null
}

nlohmann::ordered_json summary(const Findings& findings) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const Claim& claim : findings.claims()) {
    out["claims"].push_back({{"claim", claim.text},
                             {"verdict", claim.verdict()},
                             {"time_ratio", in_json(claim.ratio)},
                             {"operations_ratio", claim.counted}});
  }
  for (const auto& balance : findings.attribution().balances) {
    out["most_saved_by"][balance.scenario] = findings.attribution().most(balance.scenario);
    out["break_even_gigabits"][balance.scenario] = in_json(balance.gigabits);
  }
  return out;
}

void declare(Flags& flags, Settings& s, FolderFlags& folder) {
  const Range some{.least = 1, .most = 1e5};
  flags.count("width", s.plan.model.width, some, "d: q, k, v and o are d x d");
  flags.count("hidden", s.hidden, some, "4 d", "h: up is h x d, down d x h");
  flags.count("blocks", s.plan.model.layers, {.least = 1, .most = 1000}, "blocks of six layers");
  flags.count("tokens", s.plan.tokens, some, "in one step");
  flags.count("rank", s.plan.rank, some, "of every method that has one; capped at min(m, n)");
  flags.count("last", s.last, some, "half of the layers", "linear layers of the second scenario");
  flags.count("refresh-every", s.refresh_every, {.least = 2, .most = 1e9},
              "steps between two choices of GaLore's subspace; more than --repeats");
  flags.count("refreshes", s.plan.refreshes, {.least = 1, .most = 1000},
              "choices of a subspace that are timed");
  std::vector<std::string> names;
  for (const Arithmetic& compute : arithmetics()) names.emplace_back(compute.name);
  s.compute = names;
  flags.list("compute", s.compute, join(names, "|"),
             "arithmetic of forward and δ, the first as base");
  flags.count("workers", s.network.workers, {.least = 2, .most = 1e6},
              "that exchange gradients in a ring");
  flags.number("bandwidth", s.network.gigabits, {.least = 0, .open_below = true},
               "Gbit/s of each worker");
  flags.count("repeats", s.plan.repeats, {.least = 1, .most = 1e6},
              "timed steps of every method, in turns");
  flags.count("threads", s.threads, {.least = 1, .most = 1024}, "of one step");
  flags.count("seed", s.plan.seed, {}, "of weights and tokens");
  flags.flag("quiet", s.quiet, "no word on stderr");
  folder.declare(flags);
}

std::vector<const Arithmetic*> chosen(const std::vector<std::string>& names) {
  std::vector<const Arithmetic*> out;
  for (const std::string& name : names) {
    if (name == "bf16" && !bf16_runs_here()) {
      fmt::print(stderr, "cost: note: --compute bf16 cannot be had, so it is left out: {}\n",
                 bf16_description());
      continue;
    }
    std::vector<std::string> known;
    const Arithmetic* found = nullptr;
    for (const Arithmetic& compute : arithmetics()) {
      known.emplace_back(compute.name);
      if (name == compute.name) found = &compute;
    }
    if (!found || std::find(out.begin(), out.end(), found) != out.end()) {
      throw std::invalid_argument(fmt::format("--compute '{}': {}; this build has {}", name,
                                              found ? "given twice" : "unknown",
                                              join(known, ", ")));
    }
    out.push_back(found);
  }
  if (out.empty()) out.push_back(&arithmetics().front());
  return out;
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("cost",
              "seconds, operations and bytes of a training step, and why LoRA's is shorter");
  declare(flags, s, folder_flags);
  flags.parse(argc, argv);
  if (folder_flags.resume)
    throw std::invalid_argument("--resume: cost takes minutes and has nothing to resume");
  const std::size_t layers = s.plan.model.weight_names().size();
  const std::size_t last = s.last.value_or(layers / 2);
  if (last > layers) {
    throw std::invalid_argument(
        fmt::format("--last {}: {} block(s) have {} layers", last, s.plan.model.layers, layers));
  }
  if (s.plan.repeats >= s.refresh_every) {
    throw std::invalid_argument(fmt::format(
        "--repeats {}: expected fewer than --refresh-every ({}), whose choice is timed apart",
        s.plan.repeats, s.refresh_every));
  }
  s.plan.model.hidden = s.hidden.value_or(4 * s.plan.model.width);
  const std::vector<const Arithmetic*> arithmetic = chosen(s.compute);
  set_threads(s.threads);
  RunFolder folder("cost", folder_flags);
  auto metadata = machine_metadata("cost");
  metadata["bf16"] = bf16_description();
  folder.begin(flags.resolved(), metadata);

  const std::vector<Scenario> where = scenarios(s.plan.model, last);
  const std::vector<Priced> methods = priced_methods(s.plan.rank, s.refresh_every);
  std::vector<Case> cases;
  for (const Arithmetic* compute : arithmetic) {
    for (const Scenario& scenario : where) {
      for (const Priced& method : methods) cases.push_back({&scenario, &method, compute});
    }
  }
  Progress progress(s.quiet);
  measure(s.plan, cases, progress);
  progress.clear();
  const Findings findings(s.plan, cases, s.network);
  folder.append_rows("table.csv", table_csv(cases, findings));
  folder.write("reasons.csv", reasons_csv(findings.attribution()));
  finish_run(folder, summary(findings), s.quiet, [&] {
    print_steps(cases, findings);
    print_reasons(s, findings);
  });
  return 0;
}

}  // namespace

int cost_main(int argc, const char* const* argv) {
  return run_program("cost", [&] { return run(argc, argv); });
}

}  // namespace gradview
