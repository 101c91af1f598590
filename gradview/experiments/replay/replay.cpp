#include "gradview/experiments/replay/replay.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/progress.hpp"
#include "gradview/experiments/replay/replay_run.hpp"
#include "gradview/experiments/replay/replay_settings.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

const char* const kProgram = sizeof(Real) == sizeof(float) ? "replay" : "replay64";

class Report {
 public:
  explicit Report(const std::string& path) : file_(path) {
    append(csv_line({"step", "weight", "projector", "grad_norm", "gain", "cosine", "captured"}));
  }
  void append(const std::string& rows) {
    file_.write_at(size_, rows.data(), rows.size());
    size_ += rows.size();
  }
  void commit() { file_.commit(); }

 private:
  AtomicFile file_;
  std::uint64_t size_ = 0;
};

class Replay {
 public:
  explicit Replay(const ReplaySettings& settings)
      : settings_(settings),
        weights_(read_weights(settings.weights)),
        gradients_(settings.gradients, weights_),
        progress_(settings.quiet) {
    require_schedule_fits(settings.schedule, gradients_.steps());
    std::optional<InitialFactors> factors;
    if (!settings.factors.empty()) factors.emplace(settings.factors);
    for (const std::string& projector : settings.projectors) {
      runs_.emplace_back(projector, settings.optimizer_settings(gradients_.steps()), weights_,
                         gradients_.names(), factors ? &*factors : nullptr);
    }
    if (factors) factors->require_all_known();
    prepare();
    const std::vector<std::string> outputs = settings.outputs();
    for (std::size_t k = 0; k < runs_.size(); ++k) {
      runs_[k].open(outputs[k], settings.trace,
                    {{"projector", runs_[k].projector()},
                     {"optimizer", settings.optimizer},
                     {"lr", exact(*settings.lr)},
                     {"schedule", settings.schedule},
                     {"clip", settings.clip ? exact(*settings.clip) : "none"},
                     {"init_batches", std::to_string(settings.init_batches)},
                     {"seed", std::to_string(settings.seed)},
                     {"steps", std::to_string(gradients_.steps())}});
    }
    if (!settings.report.empty()) report_.emplace(settings.report);
    for (const ReplayRun& run : runs_) {
      progress_.note(run.projector() + "\n" + describe(run.planned()));
    }
  }

  void run() {
    progress_.expect(gradients_.steps());
    for (std::size_t step = 0; step < gradients_.steps(); ++step) {
      take(step);
      if (std::all_of(runs_.begin(), runs_.end(), [](auto& run) { return run.divergence(); })) {
        throw DivergedError(divergence_of(runs_.front()) +
                            (runs_.size() == 1 ? "" : "; the other projectors diverged as well"));
      }
      progress_.done(settings_.out);
    }
    progress_.clear();
    for (ReplayRun& run : runs_) {
      if (!run.divergence()) run.write();
    }
    throw_if_stop_requested();
    for (ReplayRun& run : runs_) {
      if (!run.divergence()) run.commit();
    }
    if (report_) report_->commit();
  }

  void print_result() const {
    for (const ReplayRun& run : runs_) {
      if (run.divergence()) fmt::print(stderr, "note: {}; no file\n", divergence_of(run));
    }
    const std::vector<std::string> outputs = settings_.outputs();
    std::size_t wide = 9, path = 4;
    for (std::size_t k = 0; k < runs_.size(); ++k) {
      wide = std::max(wide, runs_[k].projector().size());
      path = std::max(path, outputs[k].size());
    }
    fmt::print("{:<{}}  {:<{}}  {:>7}  {:>10}  {:>11}  {:>10}{}\n", "projector", wide, "file", path,
               "weights", "trained", "state bytes", "‖W − W₀‖",
               report_ ? "  mean gain     cosine" : "");
    for (std::size_t k = 0; k < runs_.size(); ++k) {
      const ReplayRun& run = runs_[k];
      const bool gone = run.divergence().has_value();
      fmt::print(
          "{:<{}}  {:<{}}  {:>7}  {:>10}  {:>11}  {:>10}{}\n", run.projector(), wide,
          gone ? "diverged" : outputs[k], path, gradients_.names().size(),
          trained_numbers(run.planned()), run.state_bytes(),
          gone ? "" : fmt::format("{:.4g}", run.distance()),
          report_ ? fmt::format("  {:>9.4g}  {:>9.4g}", run.mean_gain(), run.mean_cosine()) : "");
    }
  }

 private:
  // The mean of the first recorded gradients. They are those of the steps: nothing else is recorded.
  void prepare() {
    const std::size_t batches = settings_.init_batches;
    if (batches > gradients_.steps()) {
      throw std::invalid_argument(fmt::format("--init-batches is {}, but {} holds {} steps",
                                              batches, settings_.gradients, gradients_.steps()));
    }
    const bool wanted = std::any_of(runs_.begin(), runs_.end(),
                                    [](const ReplayRun& run) { return run.wants_prepass(); });
    if (!wanted && batches > 1) {
      throw std::invalid_argument(
          "--init-batches: no projector in this call starts from a gradient");
    }
    for (std::size_t batch = 0; wanted && batch < batches; ++batch) {
      for (std::size_t k = 0; k < gradients_.names().size(); ++k) {
        const Gradient g = gradients_.read(k, batch);
        for (ReplayRun& run : runs_) {
          run.prepare(gradients_.names()[k], g, 1 / static_cast<double>(batches));
        }
      }
    }
  }

  void take(std::size_t step) {
    throw_if_stop_requested();
    std::vector<ReplayRun*> running;
    for (ReplayRun& run : runs_) {
      if (!run.divergence()) running.push_back(&run);
    }
    for (ReplayRun* run : running) {
      if (report_) run->observe();
    }
    for (std::size_t k = 0; k < gradients_.names().size(); ++k) {
      const Gradient g = gradients_.read(k, step);
      for (ReplayRun* run : running) {
        throw_if_stop_requested();
        run->collect(gradients_.names()[k], g);
      }
    }
    for (ReplayRun* run : running) run->step();
    if (report_) record(step, running);
  }

  void record(std::size_t step, const std::vector<ReplayRun*>& running) {
    std::string rows;
    for (std::size_t k = 0; k < gradients_.names().size(); ++k) {
      for (const ReplayRun* run : running) {
        const auto& [seen, captured] = run->seen()[k];
        rows += csv_line({std::to_string(step), gradients_.names()[k], run->projector(),
                          exact(seen.grad_norm()), exact(seen.gain()), exact(seen.cosine()),
                          exact(captured)});
      }
    }
    report_->append(rows);
  }

  static std::string divergence_of(const ReplayRun& run) {
    return fmt::format("weight {} left the finite numbers at step {} under {}",
                       quoted_name(run.divergence()->weight), run.divergence()->step,
                       run.projector());
  }

  const ReplaySettings& settings_;
  Weights weights_;
  RecordedGradients gradients_;
  std::deque<ReplayRun> runs_;
  std::optional<Report> report_;
  Progress progress_;
};

int run(int argc, const char* const* argv) {
  ReplaySettings settings;
  Flags flags(kProgram,
              "recorded gradients through any projector and optimizer. They do not depend on the\n"
              "weights: every projector sees the same ones. A weight without gradient is frozen");
  settings.declare(flags);
  flags.parse(argc, argv);
  settings.finish();
  set_threads(settings.threads);
  Replay replay(settings);
  replay.run();
  replay.print_result();
  return 0;
}

}  // namespace

int replay_main(int argc, const char* const* argv) {
  return run_program(kProgram, [&] { return run(argc, argv); });
}

}  // namespace gradview
