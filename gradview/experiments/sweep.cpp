#include "gradview/experiments/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "gradview/experiments/driver/jobs.hpp"

namespace gradview {

void Sweep::prepare(const std::vector<std::uint64_t>& seeds) {
  std::vector<std::shared_ptr<const Task>> made(seeds.size());
  std::vector<StartScores> scores(seeds.size());
  run_jobs(seeds.size(), jobs_, [&](std::size_t i) {
    made[i] = family_.make(seeds[i]);
    scores[i] = evaluate_start(*made[i]);
  });
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    tasks_[seeds[i]] = std::move(made[i]);
    starts_[seeds[i]] = scores[i];
  }
}

void Sweep::restore(const std::vector<std::uint64_t>& reported_seeds) {
  if (!folder_.resuming()) return;
  const std::string path = folder_.file("metrics.csv");
  const std::string layers = folder_.file("layers.csv");
  if (!std::filesystem::exists(path)) {
    std::filesystem::remove(layers);
    return;
  }
  std::map<RunId, std::vector<LayerRow>> seen;
  if (std::filesystem::exists(layers)) seen = read_layers(layers);
  std::string kept = metrics_header();
  std::vector<const Run*> restored;
  for (Run& run : read_metrics(path)) {
    const bool reported =
        std::find(reported_seeds.begin(), reported_seeds.end(), run.seed) != reported_seeds.end();
    const Row& last = run.rows.back();
    const bool finished = last.diverged || (last.step == settings_.steps &&
                                            last.split == (reported ? "test" : "train"));
    if (!finished) continue;
    kept += metrics_text(run);
    run.layers = std::move(seen[id_of(run)]);
    restored.push_back(&(runs_.insert_or_assign(id_of(run), std::move(run)).first->second));
  }
  folder_.write("metrics.csv", kept);
  write_layers(restored);
  started_metrics_ = true;
  started_layers_ = std::filesystem::exists(layers);
  progress_.note(fmt::format("resuming: {} runs are there already", runs_.size()));
}

void Sweep::run(const std::vector<RunKey>& keys) {
  std::vector<RunKey> missing;
  for (const RunKey& key : keys) {
    if (runs_.count(id(key.curve, key.lr, key.seed)) == 0) missing.push_back(key);
  }
  progress_.skip(keys.size() - missing.size());
  run_jobs(missing.size(), jobs_, [&](std::size_t i) {
    const RunKey& key = missing[i];
    TrainingSettings settings = settings_;
    if (!key.test)
      settings.eval_every *= 2;  // searching needs the end, and enough of the way for matching
    Run run = train(task(key.seed), starts_.at(key.seed), key.curve, key.lr, key.seed, key.test,
                    settings);
    const Row* last = run.last("validation");
    const std::string what = fmt::format(
        "{} {} lr {:.2g} seed {}: {}", key.curve.method, key.curve.optimizer, key.lr, key.seed,
        run.diverged() ? std::string("diverged")
                       : fmt::format("{:.1f} %", 100 * last->accuracy.value_or(0)));
    {
      const std::lock_guard lock(mutex_);
      keep(run);
      runs_.insert_or_assign(id(key.curve, key.lr, key.seed), std::move(run));
    }
    progress_.done(what);
  });
}

// A run that is in metrics.csv is in layers.csv: what an interruption leaves is whole.
void Sweep::keep(const Run& run) {
  const auto append = [&](const char* file, bool& started, const std::string& header,
                          const std::string& text) {
    if (text.empty()) return;
    folder_.append_rows(file, (started ? "" : header) + text);
    started = true;
  };
  append("layers.csv", started_layers_, layers_header(), layers_text(run));
  append("metrics.csv", started_metrics_, metrics_header(), metrics_text(run));
}

// Nothing is left of an earlier layers.csv where there are no rows now.
void Sweep::write_layers(const std::vector<const Run*>& runs) const {
  std::string text;
  for (const Run* run : runs) text += layers_text(*run);
  if (text.empty()) {
    std::filesystem::remove(folder_.file("layers.csv"));
  } else {
    folder_.write("layers.csv", layers_header() + text);
  }
}

const Run& Sweep::result(const RunKey& key) const {
  return runs_.at(id(key.curve, key.lr, key.seed));
}

void Sweep::write(const std::vector<RunKey>& order) const {
  std::string text = metrics_header();
  std::vector<const Run*> runs;
  for (const RunKey& key : order) {
    runs.push_back(&result(key));
    text += metrics_text(*runs.back());
  }
  folder_.write("metrics.csv", text);
  write_layers(runs);
}

}  // namespace gradview
