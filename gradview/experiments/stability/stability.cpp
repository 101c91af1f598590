#include "gradview/experiments/stability/stability.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/plots.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/experiments/stability/growth.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::size_t seeds = 8, draws = 16, steps = 5, jobs = cores();
  double alpha = 16, gamma = 16, margin = 0.15;
  bool quiet = false;
};

// The sizes over which one of m, n, r is varied, each four times doubled to where r ≪ n and where
// the other sizes are out of the way; LoRA-GA has 2r singular vectors to take, so that its ranks
// are smaller.
struct Ladder {
  char dimension;
  std::vector<Sizes> sizes;
};

std::vector<Ladder> ladders(Start start) {
  std::vector<Ladder> out{{'m', {}}, {'n', {}}, {'r', {}}};
  const bool ga = start == Start::lora_ga;
  const std::size_t rank = ga ? 8 : 16;
  for (const std::size_t times : {1, 2, 4, 8}) {
    out[0].sizes.push_back({64 * times, 256, rank});
    out[1].sizes.push_back({64, 128 * times, rank});
    out[2].sizes.push_back({128, 1024, (ga ? 4 : 16) * times});
  }
  return out;
}

double slope(const std::vector<double>& x, const std::vector<double>& y) {
  const auto count = static_cast<double>(x.size());
  double mx = 0, my = 0, xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mx += x[i] / count;
    my += y[i] / count;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mx) * (y[i] - my);
    xx += (x[i] - mx) * (x[i] - mx);
  }
  return xy / xx;
}

double along(Sizes sizes, char dimension) {
  return static_cast<double>(dimension == 'm' ? sizes.m : dimension == 'n' ? sizes.n : sizes.r);
}

struct Fit {
  const Case* which;
  char dimension;
  Interval exponent;
  double theory;
};

// Mean of an energy over the draws: run (as in trial_of) × ladder × size × seed.
using Key = std::tuple<std::string, char, std::size_t, std::uint64_t>;

Trial trial_of(const Case& c, const Settings& s) {
  return {c.scaling, c.optimizer, c.start, c.phase == Phase::late, s.alpha, s.gamma, s.steps};
}
std::string run_name(const Trial& t) {
  return fmt::format("{} {} {} {}", t.start == Start::lora_ga, t.scaling, t.optimizer, t.late);
}

class Study {
 public:
  explicit Study(const Settings& s) : s_(s) {
    std::map<std::string, Trial> trials;
    for (const Case& c : stability_cases()) {
      const Trial trial = trial_of(c, s);
      trials.emplace(run_name(trial), trial);
    }
    struct Work {
      std::string name;
      Trial trial;
      char dimension;
      std::size_t at;
      Sizes sizes;
      std::uint64_t seed;
    };
    std::vector<Work> work;
    for (const auto& [name, trial] : trials) {
      for (const Ladder& ladder : ladders(trial.start)) {
        for (std::size_t at = 0; at < ladder.sizes.size(); ++at) {
          for (std::uint64_t seed = 1; seed <= s.seeds; ++seed)
            work.push_back({name, trial, ladder.dimension, at, ladder.sizes[at], seed});
        }
      }
    }
    std::vector<std::vector<Energies>> found(work.size());
    run_jobs(work.size(), s.jobs, [&](std::size_t i) {
      throw_if_stop_requested();
      const Work& w = work[i];
      std::vector<Energies> mean(3, Energies{0, 0});
      for (std::size_t draw = 0; draw < s_.draws; ++draw) {
        const auto one = run_trial(w.trial, w.sizes, w.seed * 100000 + draw);
        for (std::size_t k = 0; k < 3; ++k) {
          mean[k].forward += one[k].forward / static_cast<double>(s_.draws);
          mean[k].backward += one[k].backward / static_cast<double>(s_.draws);
        }
      }
      found[i] = mean;
    });
    for (std::size_t i = 0; i < work.size(); ++i) {
      energies_[{work[i].name, work[i].dimension, work[i].at, work[i].seed}] = found[i];
    }
  }

  double energy(const Case& c, char dimension, std::size_t at, std::uint64_t seed) const {
    const auto& all = energies_.at({run_name(trial_of(c, s_)), dimension, at, seed});
    const Energies& one = all[c.phase == Phase::start ? 0 : c.phase == Phase::first ? 1 : 2];
    return c.forward ? one.forward : one.backward;
  }

  std::vector<Fit> fits() const {
    std::vector<Fit> out;
    for (const Case& c : stability_cases()) {
      for (const Ladder& ladder : ladders(c.start)) {
        std::vector<double> slopes;
        for (std::uint64_t seed = 1; seed <= s_.seeds; ++seed) {
          std::vector<double> x, y;
          for (std::size_t at = 0; at < ladder.sizes.size(); ++at) {
            x.push_back(std::log(along(ladder.sizes[at], ladder.dimension)));
            y.push_back(std::log(energy(c, ladder.dimension, at, seed)));
          }
          slopes.push_back(slope(x, y));
        }
        const double theory = ladder.dimension == 'm'   ? c.theory.m
                              : ladder.dimension == 'n' ? c.theory.n
                                                        : c.theory.r;
        out.push_back({&c, ladder.dimension, t_interval(slopes), theory});
      }
    }
    return out;
  }

 private:
  Settings s_;
  std::map<Key, std::vector<Energies>> energies_;
};

// Is the exponent `value`, up to the margin?
std::string judged(const Fit& fit, double value, double margin) {
  if (fit.exponent.low >= value - margin && fit.exponent.high <= value + margin) return "holds";
  if (fit.exponent.high < value - margin || fit.exponent.low > value + margin) return "does not";
  return "undecided";
}

struct Claim {
  std::string text, verdict, evidence;
};

// Stable: every exponent asked about is zero.
Claim stable(const std::vector<Fit>& fits, const std::string& text, const std::string& dimensions,
             double margin, const std::function<bool(const Case&)>& about) {
  Claim claim{text, "holds", ""};
  for (const Fit& fit : fits) {
    if (!about(*fit.which) || dimensions.find(fit.dimension) == std::string::npos) continue;
    const std::string one = judged(fit, 0, margin);
    if (one == "does not" || (one == "undecided" && claim.verdict == "holds")) claim.verdict = one;
    claim.evidence +=
        fmt::format("{}{} {}^{:.2f} ({:.2f}, {:.2f})", claim.evidence.empty() ? "" : "; ",
                    fit.which->forward ? "output" : "input gradient", fit.dimension,
                    fit.exponent.mean, fit.exponent.low, fit.exponent.high);
  }
  return claim;
}

std::vector<Claim> claims(const std::vector<Fit>& fits, double margin) {
  std::vector<Claim> out;
  for (const bool forward : {true, false}) {
    out.push_back(stable(fits,
                         fmt::format("LoRA-GA: ζ = α²√m/(γ r) makes the start stable in m, n and "
                                     "r, {}",
                                     forward ? "forwards" : "backwards"),
                         "mnr", margin, [&](const Case& c) {
                           return c.start == Start::lora_ga && c.phase == Phase::start &&
                                  c.forward == forward;
                         }));
  }
  for (const char* scaling : {"rslora", "standard"}) {
    for (const char* optimizer : {"sgd", "adam"}) {
      for (const Phase phase : {Phase::first, Phase::few, Phase::late}) {
        for (const bool forward : {true, false}) {
          if (phase == Phase::late && std::string(optimizer) == "sgd") continue;
          out.push_back(
              stable(fits,
                     fmt::format("{} is rank-stable under {}, {}, {}",
                                 scaling == std::string("rslora") ? "alpha/√r" : "alpha/r",
                                 optimizer, name(phase), forward ? "forwards" : "backwards"),
                     "r", margin, [&](const Case& c) {
                       return c.start == Start::zero && c.scaling == scaling &&
                              c.optimizer == optimizer && c.phase == phase && c.forward == forward;
                     }));
        }
      }
    }
  }
  return out;
}

std::string table_csv(const std::vector<Fit>& fits, double margin) {
  std::string text = csv_line({"start", "scaling", "optimizer", "phase", "direction", "dimension",
                               "exponent", "low", "high", "theory", "verdict"});
  for (const Fit& fit : fits) {
    const Case& c = *fit.which;
    text +=
        csv_line({c.start == Start::lora_ga ? "lora_ga" : "zero", c.scaling, c.optimizer,
                  name(c.phase), c.forward ? "output" : "input gradient",
                  std::string(1, fit.dimension), exact(fit.exponent.mean), exact(fit.exponent.low),
                  exact(fit.exponent.high), exact(fit.theory), judged(fit, fit.theory, margin)});
  }
  return text;
}

std::string points_csv(const Study& study, const Settings& s) {
  std::string text = csv_line({"start", "scaling", "optimizer", "phase", "direction", "dimension",
                               "m", "n", "r", "seed", "second_moment"});
  for (const Case& c : stability_cases()) {
    for (const Ladder& ladder : ladders(c.start)) {
      for (std::size_t at = 0; at < ladder.sizes.size(); ++at) {
        const Sizes& z = ladder.sizes[at];
        for (std::uint64_t seed = 1; seed <= s.seeds; ++seed) {
          text += csv_line({c.start == Start::lora_ga ? "lora_ga" : "zero", c.scaling, c.optimizer,
                            name(c.phase), c.forward ? "output" : "input gradient",
                            std::string(1, ladder.dimension), std::to_string(z.m),
                            std::to_string(z.n), std::to_string(z.r), std::to_string(seed),
                            exact(study.energy(c, ladder.dimension, at, seed))});
        }
      }
    }
  }
  return text;
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("stability",
              "how an adapter's output and input gradient grow with m, n and r, against theory");
  flags.count("seeds", s.seeds, {.least = 2, .most = 10000}, "an exponent is fitted for each");
  flags.count("draws", s.draws, {.least = 1, .most = 10000},
              "runs behind each second moment of a seed");
  flags.count("steps", s.steps, {.least = 2, .most = 10000}, "what 'a few steps' means");
  flags.number("alpha", s.alpha, {.least = 0, .open_below = true}, "of the scaling");
  flags.number("gamma", s.gamma, {.least = 0, .open_below = true}, "of LoRA-GA's start");
  flags.number("margin", s.margin, {.least = 0, .open_below = true},
               "exponents this near to each other count as equal");
  flags.count("jobs", s.jobs, {.least = 1, .most = 1024}, "runs at the same time");
  flags.flag("quiet", s.quiet, "no word on stderr");
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  if (folder_flags.resume)
    throw std::invalid_argument("--resume: stability takes seconds and has nothing to resume");

  RunFolder folder("stability", folder_flags);
  Json metadata = machine_metadata("stability");
  metadata["seeds"] = s.seeds;
  folder.begin(flags.resolved(), metadata);
  const Study study(s);
  const std::vector<Fit> fits = study.fits();
  folder.append_rows("points.csv", points_csv(study, s));
  folder.write("table.csv", table_csv(fits, s.margin));
  const std::string no_picture = draw_plots(folder.path());

  fmt::print("exponents of second moments, fitted over {} seeds ±95 %, [theory]\n{:<58}", s.seeds,
             "");
  for (const char* dimension : {"m", "n", "r"}) fmt::print("{:<22}", dimension);
  fmt::print("verdict\n");
  std::size_t off = 0;
  for (std::size_t i = 0; i < fits.size(); i += 3) {
    std::string all = "holds";
    fmt::print("{:<58}", name(*fits[i].which));
    for (std::size_t k = i; k < i + 3; ++k) {
      const Fit& fit = fits[k];
      fmt::print("{:<22}", fmt::format("{:.2f} ±{:.2f} [{:g}]", fit.exponent.mean,
                                       fit.exponent.high - fit.exponent.mean, fit.theory));
      const std::string one = judged(fit, fit.theory, s.margin);
      if (one == "does not" || (one == "undecided" && all == "holds")) all = one;
    }
    off += all == "does not";
    fmt::print("{}\n", all);
  }
  Json listed = Json::array();
  for (const Claim& c : claims(fits, s.margin)) {
    fmt::print("{:<10} {}\n           {}\n", c.verdict, c.text, c.evidence);
    listed.push_back({{"claim", c.text}, {"verdict", c.verdict}, {"evidence", c.evidence}});
  }
  const Json summary{
      {"status", "complete"}, {"rows", fits.size() / 3}, {"off_theory", off}, {"claims", listed}};
  folder.write("summary.json", summary.dump(2) + "\n");
  if (!no_picture.empty() && !s.quiet) fmt::print(stderr, "note: {}\n", no_picture);
  if (!s.quiet) fmt::print(stderr, "run folder: {}\n", folder.path());
  return 0;
}

}  // namespace

int stability_main(int argc, const char* const* argv) {
  return run_program("stability", [&] { return run(argc, argv); });
}

}  // namespace gradview
