#include "gradview/optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "gradview/core/spec.hpp"
#include "gradview/core/text.hpp"

namespace gradview {
namespace {

struct Options {
  std::size_t warmup = 0, restart_every = 0, restart_warmup = 0;
  double final = 0;
  void declare(OptionSet& o) {
    o.count("warmup", warmup, {}, "steps of linear warm-up");
    o.count("restart_every", restart_every, {}, "steps from one restart to the next; 0: none");
    o.count("restart_warmup", restart_warmup, {}, "steps of linear warm-up after each");
    o.number("final", final, {.least = 0, .most = 1}, "factor that linear and cosine end with");
  }
};

Options read_schedule(const std::string& text, std::string& name) {
  const Spec spec = parse_spec(text);
  const std::vector<std::string> names{"constant", "linear", "cosine"};
  if (std::find(names.begin(), names.end(), spec.name) == names.end()) {
    throw std::invalid_argument("no schedule '" + spec.name + "'; there are " + join(names, ", ") +
                                did_you_mean(spec.name, names));
  }
  name = spec.name;
  if (name == "constant" && spec.find("final")) {
    throw std::invalid_argument("schedule constant has no option 'final'; it ends as it began");
  }
  const Options o = read_options<Options>(spec);
  if ((o.restart_every > 0) != (o.restart_warmup > 0)) {
    throw std::invalid_argument("schedule '" + text +
                                "': restart_every and restart_warmup need each other");
  }
  if (o.restart_every > 0 && std::max(o.warmup, o.restart_warmup) >= o.restart_every) {
    throw std::invalid_argument("schedule '" + text + "': a warm-up of " +
                                std::to_string(std::max(o.warmup, o.restart_warmup)) +
                                " steps does not end before the next restart, after " +
                                std::to_string(o.restart_every));
  }
  return o;
}

// Linear from 1/(warmup + 1) to one, which is reached after that many steps.
double rising(std::size_t step, std::size_t warmup) {
  return step < warmup ? static_cast<double>(step + 1) / static_cast<double>(warmup + 1) : 1;
}

}  // namespace

Schedule make_schedule(const std::string& text) {
  std::string name;
  const Options o = read_schedule(text, name);
  return [name, o](std::size_t step, std::size_t steps) {
    if (step < o.warmup) return rising(step, o.warmup);
    const bool restarted = o.restart_every > 0 && step >= o.restart_every;
    const double again = restarted ? rising(step % o.restart_every, o.restart_warmup) : 1;
    if (name == "constant") return again;
    const auto length = static_cast<double>(std::max<std::size_t>(steps, o.warmup + 1) - o.warmup);
    const double p = std::min(1.0, static_cast<double>(step - o.warmup) / length);
    const double falling = name == "linear" ? 1 - p : (1 + std::cos(std::numbers::pi * p)) / 2;
    return again * (o.final + (1 - o.final) * falling);
  };
}

void require_schedule_fits(const std::string& text, std::size_t steps) {
  std::string name;
  const Options o = read_schedule(text, name);
  if (o.warmup > 0 && o.warmup >= steps) {
    throw std::invalid_argument("schedule '" + text + "': " + std::to_string(o.warmup) +
                                " steps of warm-up do not fit in " + std::to_string(steps) +
                                " steps");
  }
  if (o.restart_every >= steps && o.restart_every > 0) {
    throw std::invalid_argument("schedule '" + text + "': there is no restart within " +
                                std::to_string(steps) + " steps, the first is after " +
                                std::to_string(o.restart_every));
  }
}

}  // namespace gradview
