#include "gradview/experiments/replay/replay_settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "gradview/experiments/driver/help.hpp"
#include "gradview/io/descriptor.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;

bool same_path(const std::string& one, const std::string& other) {
  return fs::absolute(one).lexically_normal() == fs::absolute(other).lexically_normal();
}

}  // namespace

void ReplaySettings::declare(Flags& flags) {
  const Range positive{.least = 0, .open_below = true};
  flags.text("weights", weights, "FILE", "safetensors: the weights at the start, each [m, n]");
  flags.text("gradients", gradients, "FILE",
             "safetensors: of a weight NAME [steps, m, n]; or NAME.delta [steps, N, m] and NAME.x "
             "[steps, N, n]");
  flags.list("projector", projectors, "SPEC",
             "each gets a file; --list names them, --help-projector NAME tells more");
  flags.text("optimizer", optimizer, "SPEC", "update rule; options in --help-optimizer");
  flags.number("lr", lr, positive, "required", "learning rate");
  flags.text("schedule", schedule, "SPEC",
             "constant | linear | cosine, with :warmup=N,final=F,restart_every=K,restart_warmup=M");
  flags.number("clip", clip, positive, "none", "largest norm of all factor gradients");
  flags.text("factors", factors, "FILE",
             "safetensors: initial NAME.FIELD, as --help-projector names them; W stays");
  flags.count("init-batches", init_batches, {.least = 1},
              "of the first recorded gradients, averaged for methods that start from a gradient");
  flags.count("seed", seed, {.least = 0}, "keys the random numbers of the projectors");
  flags.flag("trace", trace, "write NAME.trace [steps + 1, m, n] too, the weight at every step");
  flags.text("report", report, "FILE",
             "CSV: grad_norm, gain, cosine, captured energy per step, weight, projector");
  flags.text("out", out, "FILE",
             "safetensors: final NAME and fields NAME.FIELD; FILE-1, FILE-2 … for several specs");
  flags.count("threads", threads, {.least = 1, .most = 1024}, "threads inside the kernels");
  flags.flag("quiet", quiet, "no progress, no table of parameters");
  flags.print("list", "", "name the projectors and end",
              [](const std::string&) { print_projectors(); });
  flags.print("help-projector", "NAME", "options and fields of a projector", print_projector_help);
  flags.print("help-optimizer", "", "options of the optimizers",
              [](const std::string&) { print_optimizers(); });
}

void ReplaySettings::finish() const {
  const auto require = [](bool given, const std::string& flag) {
    if (!given) throw std::invalid_argument(flag + " is required; see --help");
  };
  require(!weights.empty(), "--weights FILE");
  require(!gradients.empty(), "--gradients FILE");
  require(!projectors.empty(), "--projector SPEC");
  require(!optimizer.empty(), "--optimizer SPEC");
  require(lr.has_value(), "--lr X");
  require(!out.empty(), "--out FILE");
  for (auto p = projectors.begin(); p != projectors.end(); ++p) {
    check_projector(parse_spec(*p));
    if (std::find(projectors.begin(), p, *p) != p) {
      throw std::invalid_argument("--projector names '" + *p + "' twice");
    }
  }
  make_optimizer_spec(parse_spec(optimizer));
  make_schedule(schedule);
  for (const std::string& path : outputs()) {
    if (!report.empty() && same_path(path, report)) {
      throw std::invalid_argument("--report and --out both write " + path);
    }
    AtomicFile{path};  // can it be written?
  }
  if (!report.empty()) AtomicFile{report};
}

std::vector<std::string> ReplaySettings::outputs() const {
  if (projectors.size() == 1) return {out};
  std::vector<std::string> all;
  for (std::size_t k = 1; k <= projectors.size(); ++k) {
    const fs::path path(out);
    const std::string name =
        fmt::format("{}-{}{}", path.stem().string(), k, path.extension().string());
    all.push_back(fs::path(path).replace_filename(name).string());
  }
  return all;
}

Optimizer::Settings ReplaySettings::optimizer_settings(std::size_t steps) const {
  Optimizer::Settings settings{.spec = make_optimizer_spec(parse_spec(optimizer)),
                               .lr = *lr,
                               .schedule = make_schedule(schedule),
                               .steps = steps,
                               .seed = seed};
  if (clip) settings.clip = *clip;
  return settings;
}

}  // namespace gradview
