#include "gradview/experiments/training.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// Weights, optimizer and data order of one run.
class Trainer {
 public:
  Trainer(const Task& task, const Curve& curve, double lr, std::uint64_t seed,
          const TrainingSettings& settings)
      : weights(started(adaptation_of(curve.method, settings), task.start())),
        plan_(plan(adaptation_of(curve.method, settings), weights, task.before_softmax())),
        optimizer({.spec = make_optimizer_spec(parse_spec(curve.optimizer)),
                   .lr = lr,
                   .schedule = make_schedule(settings.schedule),
                   .steps = settings.steps,
                   .seed = seed,
                   .clip = settings.clip}),
        task_(task),
        settings_(settings),
        order_(seed, task.examples()) {
    apply(plan_, weights, seed, optimizer);
    names_ = optimizer.names();
    training_ = {.trained = {names_.begin(), names_.end()}, .dropout = Dropout{.seed = seed}};
    if (optimizer.wants_prepass()) prepass(seed);
  }

  Score gradients(bool collecting) {
    const auto batch = order_.next(settings_.batch_size);
    const std::size_t parts = settings_.accumulate;
    Score mean;
    for (std::size_t part = 0; part < parts; ++part) {
      const std::size_t begin = batch.size() * part / parts;
      const std::size_t count = batch.size() * (part + 1) / parts - begin;
      const double share = static_cast<double>(count) / static_cast<double>(batch.size());
      training_.dropout->step = optimizer.steps_done() * parts + part;
      const Score score =
          task_.loss_and_gradients(weights, std::span(batch).subspan(begin, count), training_,
                                   [&](const std::string& name, const Gradient& g) {
                                     if (collecting && adapted(name))
                                       optimizer.collect(name, g, share);
                                   });
      mean.loss += share * score.loss;
      mean.accuracy += share * score.accuracy;
    }
    return mean;
  }

  std::size_t trainable() const { return trained_numbers(plan_); }

  void look(std::size_t step, Run& run) {
    const Watched seen{run, step, task_.start(), weights, optimizer, run.layers};
    for (const std::string& name : names_) {
      for (const auto& [key, value] : optimizer.projector(name).figures()) {
        seen.add(name, key, value);
      }
    }
    if (settings_.watch) settings_.watch(seen);
  }

  Weights weights;

 private:
  void prepass(std::uint64_t seed) {  // the mean gradient at the start over its own batches
    BatchOrder order(seed, task_.examples(), "prepass");
    const double share = 1 / static_cast<double>(settings_.init_batches);
    for (std::size_t i = 0; i < settings_.init_batches; ++i) {
      training_.dropout->step = SIZE_MAX - i;
      task_.loss_and_gradients(weights, order.next(settings_.batch_size), training_,
                               [&](const std::string& name, const Gradient& g) {
                                 if (adapted(name)) optimizer.prepare(name, g, share);
                               });
    }
  }
  bool adapted(const std::string& name) const { return training_.trained.contains(name); }
  std::vector<Planned> plan_;

 public:
  Optimizer optimizer;

 private:
  const Task& task_;
  const TrainingSettings& settings_;
  BatchOrder order_;
  std::vector<std::string> names_;
  Training training_;
};

}  // namespace

std::vector<std::size_t> BatchOrder::next(std::size_t size) {
  std::vector<std::size_t> batch;
  while (batch.size() < size) {
    if (rest_.empty()) {
      rest_.resize(examples_);
      std::iota(rest_.begin(), rest_.end(), std::size_t{0});
      Stream rng(seed_, Purpose::order, name_, epoch_++);
      for (std::size_t i = examples_; i > 1; --i) std::swap(rest_[i - 1], rest_[rng.below(i)]);
    }
    batch.push_back(rest_.back());
    rest_.pop_back();
  }
  return batch;
}

Adaptation adaptation_of(const std::string& method, const TrainingSettings& settings) {
  const Placed placed = parse_placed(method);
  Adaptation out{.projector = placed.projector,
                 .target = placed.target.empty() ? settings.target : placed.target,
                 .overrides = {}};
  if (placed.frozen) {
    out.frozen = *placed.frozen;
    if (out.frozen->target.empty()) out.frozen->target = out.target;
  }
  if (!settings.also.empty()) out.also.push_back(settings.also);
  if (!placed.also.empty()) out.also.push_back(placed.also);
  for (Override each : settings.overrides) {
    std::erase_if(each.options, [&](const auto& option) {
      const auto& known = find_projector(out.projector.name).options;
      return std::none_of(known.begin(), known.end(),
                          [&](const OptionHelp& o) { return o.key == option.first; });
    });
    out.overrides.push_back(std::move(each));
  }
  out.train_rest = settings.train_rest;
  out.train_biases = settings.train_biases;
  out.steps = settings.steps;
  return out;
}

StartScores evaluate_start(const Task& task) {
  return {task.evaluate(task.start(), Split::validation), task.evaluate(task.start(), Split::old)};
}

Run train(const Task& task, const StartScores& start, const Curve& curve, double lr,
          std::uint64_t seed, bool test, const TrainingSettings& settings) {
  const Stopwatch wall;
  double train_seconds = 0;
  Trainer trainer(task, curve, lr, seed, settings);
  Optimizer& optimizer = trainer.optimizer;
  Run run{curve, lr, seed, {}};
  const auto add = [&](std::size_t step, const char* split, const Score& score) -> Row& {
    run.rows.push_back({.step = step,
                        .split = split,
                        .loss = score.loss,
                        .accuracy = score.accuracy,
                        .grad_norm = {},
                        .update_norm = {},
                        .gain = {},
                        .cosine = {},
                        .state_bytes = optimizer.state_bytes(),
                        .train_seconds = train_seconds,
                        .wall_seconds = wall.seconds(),
                        .diverged = false,
                        .trainable = trainer.trainable(),
                        .lr_used = optimizer.lr(),
                        .second_order = {}});
    return run.rows.back();
  };
  for (std::size_t step = 0;; ++step) {
    throw_if_stop_requested();
    const bool last = step == settings.steps;
    const bool logged = last || step % settings.eval_every == 0;
    if (logged) {
      const bool known = step == 0 && trainer.weights.all_quantised().empty();
      add(step, "old", known ? start.old : task.evaluate(trainer.weights, Split::old));
      const Score score =
          known ? start.validation : task.evaluate(trainer.weights, Split::validation);
      Row& row = add(step, "validation", score);
      row.diverged = !std::isfinite(score.loss);
      if (row.diverged) return run;
    }
    if (last) {
      add(step, "train", trainer.gradients(false));
      if (!test) return run;
      add(step, "test", task.evaluate(trainer.weights, Split::test));
      trainer.look(step, run);
      return run;
    }
    const Stopwatch watch;
    if (logged) optimizer.observe();
    const double lr_used = optimizer.lr();
    const Score score = trainer.gradients(true);
    if (std::isfinite(score.loss)) optimizer.step();
    train_seconds += watch.seconds();
    if (!std::isfinite(score.loss)) {
      add(step, "train", score).diverged = true;
      return run;
    }
    if (!logged) continue;
    Row& row = add(step, "train", score);
    const Observation& seen = optimizer.observation();
    row.grad_norm = seen.grad_norm();
    row.update_norm = seen.update_norm();
    row.gain = seen.gain();
    row.cosine = seen.cosine();
    row.second_order = seen.second_order();
    row.lr_used = lr_used;
    if (test) trainer.look(step, run);
  }
}

std::vector<double> step_seconds(const Task& task,
                                 const std::vector<std::pair<Curve, double>>& curves,
                                 std::uint64_t seed, const TrainingSettings& settings,
                                 std::size_t repeats) {
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (const auto& [curve, lr] : curves) {
    trainers.push_back(std::make_unique<Trainer>(task, curve, lr, seed, settings));
  }
  std::vector<std::vector<double>> seconds(curves.size());
  for (std::size_t repeat = 0; repeat < repeats + 2; ++repeat) {  // the first two warm up
    for (std::size_t i = 0; i < trainers.size(); ++i) {
      throw_if_stop_requested();
      const Stopwatch watch;
      trainers[i]->gradients(true);
      trainers[i]->optimizer.step();
      if (repeat >= 2) seconds[i].push_back(watch.seconds());
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& each : seconds) {
    std::nth_element(each.begin(), each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2),
                     each.end());
    medians.push_back(each[each.size() / 2]);
  }
  return medians;
}

}  // namespace gradview
