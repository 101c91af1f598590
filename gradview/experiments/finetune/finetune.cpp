#include "gradview/experiments/finetune/finetune.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/plots.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/progress.hpp"
#include "gradview/experiments/finetune/finetune_log.hpp"
#include "gradview/experiments/finetune/finetune_run.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

double megabytes_at_most() {  // of memory that the process had
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_maxrss) / 1024;
}

class Session {
 public:
  Session(FineTuneSettings& settings, const Flags& flags)
      : settings_(settings), progress_(settings.quiet) {
    if (settings.saves()) folder_.emplace("finetune", settings.folder);
    job_.emplace(settings);
    if (folder_) begin(flags);
    if (settings.adapts()) progress_.note(describe(job_->planned()));
    if (!saves_adapter() && settings.adapts()) {
      require_some_result();
      fmt::print(stderr, "finetune: note: {}; the merged model is saved instead\n",
                 job_->no_adapter());
    }
  }

  void run() {
    if (settings_.adapts()) train();
    if (job_->eval() && !settings_.adapts()) start_ = end_ = job_->evaluate(settings_.predict);
    save();
    print_result();
  }

 private:
  bool saves_adapter() const { return job_->no_adapter().empty(); }
  bool writes_merged() const { return settings_.merge || (settings_.adapts() && !saves_adapter()); }
  std::string checkpoint() const { return folder_->file("checkpoint.safetensors"); }
  std::string merged() const { return folder_->file("merged"); }
  std::string base() const { return folder_->file("base"); }

  void require_some_result() const {
    if (settings_.in_four_bits()) {
      throw std::invalid_argument("nothing could be saved: " + job_->no_adapter() +
                                  ", and weights in 4 bits cannot be merged");
    }
    if (!settings_.classifies() || settings_.pooling == "cls") return;
    throw std::invalid_argument("nothing could be saved: " + job_->no_adapter() +
                                ", and transformers has no classifier that pools by mean");
  }

  void require_unfinished() const {
    if (!fs::exists(folder_->file("summary.json"))) return;
    if (!fs::exists(checkpoint())) {
      throw CheckpointError(folder_->path() + ": the run is finished; --steps 0 --adapter " +
                            folder_->path() + " evaluates it, --adapter goes on from it");
    }
  }

  void begin(const Flags& flags) {
    Json metadata = machine_metadata("finetune");
    metadata["compute"] = settings_.compute.record();
    metadata["threads"] = settings_.threads;
    metadata["config_sha256"] = sha256_of_file(settings_.model + "/config.json");
    for (const TokenFile* file : {job_->train(), job_->eval()}) {
      if (!file) continue;
      const bool train = file == job_->train();
      words_[train ? "train_sha256" : "eval_sha256"] = sha256_of_file(file->path());
      metadata[train ? "train" : "eval"] = {{"path", file->path()},
                                            {"texts", file->size()},
                                            {"tokens", file->tokens()},
                                            {"sha256", sha256_of_file(file->path())}};
    }
    folder_->begin(flags.resolved(), metadata);
    if (folder_->resuming()) require_unfinished();
    if (!folder_->resuming()) {  // of a run that is overwritten
      std::error_code ignored;
      for (const char* old :
           {"checkpoint.safetensors", "adapter_model.safetensors", "merged", "base"}) {
        fs::remove_all(folder_->file(old), ignored);
      }
    }
    log_.emplace(*folder_, settings_, job_->trained_numbers());
  }

  void restore() {
    if (!folder_->resuming() || !fs::exists(checkpoint())) {
      log_->cut(0);
      job_->prepare();
      return;
    }
    const CheckpointReader from(checkpoint());
    for (const auto& [key, word] : words_) {
      if (from.word(key) == word) continue;
      throw CheckpointError(checkpoint() + ": the file of --" + key.substr(0, key.find('_')) +
                            " is not the one that the run began with");
    }
    from.restore([&](const StateVisit& visit) { job_->visit(visit); });
    train_seconds_ = from.number("train_seconds");
    tokens_ = static_cast<std::size_t>(from.number("tokens"));
    start_ = {from.number("start_loss"), from.number("start_accuracy")};
    job_->skip_to(job_->steps_done());
    log_->cut(job_->steps_done());
    progress_.skip(job_->steps_done());
    progress_.note(fmt::format("going on from step {}", job_->steps_done()));
  }

  void write_checkpoint() {
    Metadata words = words_;
    words["train_seconds"] = exact(train_seconds_);
    words["tokens"] = std::to_string(tokens_);
    words["start_loss"] = exact(start_.loss);
    words["start_accuracy"] = exact(start_.accuracy);
    log_->flush();
    gradview::write_checkpoint(
        checkpoint(), [&](const StateVisit& visit) { job_->visit(visit); }, words);
    saved_at_ = job_->steps_done();
  }

  void train() {
    progress_.expect(settings_.steps);
    restore();
    const std::size_t began = job_->steps_done();
    if (began == 0) evaluate(0);
    double seconds = 0;
    std::size_t tokens = 0;
    for (std::size_t step = began; step < settings_.steps; ++step) {
      if (stop_requested()) {
        if (step > began && step != saved_at_) write_checkpoint();
        throw_if_stop_requested();
      }
      const double lr = job_->lr();
      const auto before = std::chrono::steady_clock::now();
      const FineTuning::Done done = job_->step();
      const double took =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
      seconds += took;
      tokens += done.tokens;
      train_seconds_ += took;
      tokens_ += done.tokens;
      log_->step(step, done.score, lr, done.tokens, train_seconds_);
      if (!std::isfinite(done.score.loss)) {
        log_->flush();
        throw DivergedError(
            fmt::format("the loss left the finite numbers at step {}; a lower --lr "
                        "may help{}",
                        step, saved_at_ ? ", and the last checkpoint is kept" : ""));
      }
      progress_.done(fmt::format("loss {:.4f} | {:.0f} tokens/s", done.score.loss,
                                 static_cast<double>(tokens) / seconds));
      const std::size_t now = step + 1;
      const bool due = settings_.eval_every > 0 && now % settings_.eval_every == 0;
      if (due && now < settings_.steps) evaluate(now);
      if (now % settings_.save_every == 0 && now < settings_.steps) write_checkpoint();
    }
    progress_.clear();
    job_->settle();
    evaluate(settings_.steps);
    log_->flush();
  }

  void evaluate(std::size_t step) {
    const bool predicts = step == settings_.steps && !settings_.predict.empty();
    if (!job_->scored() && !predicts) return;
    const Score score = job_->evaluate(predicts ? settings_.predict : "");
    if (!job_->scored()) return;
    if (step == 0) start_ = score;
    end_ = score;
    log_->evaluation(step, score, job_->lr(), job_->state_bytes(), train_seconds_);
    progress_.note(
        fmt::format("step {}: loss {:.4f}, accuracy {:.4f}", step, score.loss, score.accuracy));
  }

  void save() {
    if (!folder_) return;
    if (!settings_.adapts() && job_->scored()) {
      log_->evaluation(0, end_, 0, 0, 0);
    }
    log_->flush();
    log_->keep();
    if (saves_adapter() && settings_.adapts() && settings_.mutated_base) {
      std::error_code ignored;
      fs::remove_all(base(), ignored);  // of a call that was stopped
      job_->write_mutated_base(base());
    }
    if (saves_adapter() && (settings_.adapts() || !settings_.adapter.empty())) {
      job_->write_adapter(folder_->path());
    }
    if (writes_merged()) {
      std::error_code ignored;
      fs::remove_all(merged(), ignored);  // of a call that was stopped
      job_->write_merged(merged());
    }
    folder_->write("table.csv", csv_line(columns()) + csv_line(cells()));
    const std::string no_picture =
        settings_.adapts() && !settings_.no_plot ? draw_plots(folder_->path()) : "";
    Json summary{{"status", "complete"},
                 {"steps", settings_.steps},
                 {"trained", job_->trained_numbers()},
                 {"adapter", saves_adapter()},
                 {"merged", writes_merged()},
                 {"tokens", tokens_},
                 {"train_seconds", train_seconds_},
                 {"peak_megabytes", std::round(megabytes_at_most())}};
    if (job_->scored()) {
      summary["start"] = {{"loss", start_.loss}, {"accuracy", start_.accuracy}};
      summary["end"] = {{"loss", end_.loss}, {"accuracy", end_.accuracy}};
    }
    folder_->write("summary.json", summary.dump(2) + "\n");
    std::error_code ignored;
    fs::remove(checkpoint(), ignored);
    if (settings_.quiet) return;
    if (!no_picture.empty()) fmt::print(stderr, "note: {}\n", no_picture);
    fmt::print(stderr, "run folder: {}\n", folder_->path());
  }

  static std::vector<std::string> columns() {
    return {"projector",  "optimizer",      "lr",   "steps",    "trained",
            "start_loss", "start_accuracy", "loss", "accuracy", "train_seconds"};
  }
  std::vector<std::string> cells() const {
    const auto measured = [&](double x) { return job_->scored() ? exact(x) : std::string(); };
    return {settings_.projector,
            settings_.optimizer,
            settings_.lr ? exact(*settings_.lr) : "",
            std::to_string(settings_.steps),
            std::to_string(job_->trained_numbers()),
            measured(start_.loss),
            measured(start_.accuracy),
            measured(end_.loss),
            measured(end_.accuracy),
            exact(train_seconds_)};
  }

  void print_result() const {
    const auto shown = [&](double x) { return job_->scored() ? fmt::format("{:.4f}", x) : "-"; };
    fmt::print("{:>6}  {:>10}  {:>10}  {:>14}  {:>8}  {:>8}  {:>9}  {:>8}\n", "steps", "trained",
               "start loss", "start accuracy", "loss", "accuracy", "tokens/s", "peak MB");
    fmt::print("{:>6}  {:>10}  {:>10}  {:>14}  {:>8}  {:>8}  {:>9}  {:>8.0f}\n", settings_.steps,
               job_->trained_numbers(), shown(start_.loss), shown(start_.accuracy),
               shown(end_.loss), shown(end_.accuracy),
               train_seconds_ > 0
                   ? fmt::format("{:.0f}", static_cast<double>(tokens_) / train_seconds_)
                   : "-",
               megabytes_at_most());
  }

  const FineTuneSettings& settings_;
  Progress progress_;
  std::optional<RunFolder> folder_;
  std::optional<FineTuning> job_;
  std::optional<FineTuneLog> log_;
  Metadata words_;
  Score start_, end_;
  double train_seconds_ = 0;
  std::size_t tokens_ = 0, saved_at_ = 0;
};

int run(int argc, const char* const* argv) {
  FineTuneSettings settings;
  Flags flags("finetune",
              "a checkpoint of Hugging Face, adapted to a text by any projector; the adapter is "
              "PEFT's");
  settings.declare(flags);
  flags.parse(argc, argv);
  settings.finish(flags);
  set_threads(settings.threads);
  Session(settings, flags).run();
  return 0;
}

}  // namespace

int finetune_main(int argc, const char* const* argv) {
  return run_program("finetune", [&] { return run(argc, argv); });
}

}  // namespace gradview
