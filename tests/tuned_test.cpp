// Learning rates chosen per curve on seeds of their own, and the quadratic task.
#include "gradview/experiments/tuned.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "gradview/core/linalg.hpp"
#include "gradview/experiments/tuning.hpp"

namespace gradview {
namespace {

class Tuned : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(out_); }
  std::vector<TunedCurve> tune(const TuneSettings& settings) {
    folder_.begin(nlohmann::ordered_json::object(), nlohmann::ordered_json::object());
    sweep_.prepare(settings.seeds.all());
    return run_tuned(sweep_, progress_, curves_, settings);
  }

  std::string out_ = testing::TempDir() + "/gradview_tuned_" +
                     testing::UnitTest::GetInstance()->current_test_info()->name();
  RunFolder folder_{"test", {.out = out_, .overwrite = true, .resume = false}};
  Progress progress_{true};
  static TrainingSettings brief() {
    TrainingSettings settings;
    settings.steps = 12;
    settings.batch_size = 10;
    settings.eval_every = 6;
    return settings;
  }
  Sweep sweep_{prepare_task(parse_spec("teacher:rows=12,cols=9,planted=2,examples=64"), {}),
               brief(), 2, folder_, progress_};
  std::vector<Curve> curves_{{"full", "sgd"}, {"lora:rank=2,alpha=3", "adam"}};
};

TEST_F(Tuned, SearchesOnOtherSeedsThanItReports) {
  const auto found = tune({.seeds = {.report = 3, .tune = 2}});
  ASSERT_EQ(found.size(), 2u);
  const auto all = read_metrics(folder_.file("metrics.csv"));
  for (const TunedCurve& each : found) {
    std::set<std::uint64_t> searched;
    std::size_t reported = 0;
    for (const auto& run : all) {
      if (!(run.curve == each.curve)) continue;
      if (run.last("test")) {
        ++reported;
        EXPECT_EQ(run.lr, each.lr);
        EXPECT_LE(run.seed, 3u);
      } else {
        searched.insert(run.seed);
        EXPECT_EQ(each.scores.count(run.lr), 1u);
      }
    }
    EXPECT_EQ(reported, 3u);
    EXPECT_EQ(searched, (std::set<std::uint64_t>{1001, 1002}));
    ASSERT_EQ(each.runs.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(each.runs[i]->seed, i + 1);
    for (const auto& [rate, score] : each.scores) EXPECT_LE(score, each.scores.at(each.lr));
  }
}

TEST_F(Tuned, EndsWithTheHalfDecadesWhereNotRefined) {
  for (const TunedCurve& each : tune({.seeds = {.report = 1, .tune = 1}, .refine = false})) {
    for (const auto& [rate, score] : each.scores) {
      const double halves = 2 * std::log10(rate);
      EXPECT_NEAR(halves, std::round(halves), 1e-9);
    }
  }
}

TEST_F(Tuned, TakesTheRatesThatAreListed) {
  const auto by_loss =
      tune({.seeds = {.report = 2, .tune = 1}, .judge = final_loss, .rates = {1e-9, 0.02}});
  for (const TunedCurve& each : by_loss) {
    EXPECT_EQ(each.scores.size(), 2u);
    EXPECT_EQ(each.lr, 0.02);  // the other one does not move
    const auto losses = over_seeds(each, [](const auto& run) { return *run.last("test")->loss; });
    EXPECT_EQ(losses.size(), 2u);
    EXPECT_NE(losses[0], losses[1]);
  }
}

// ½⟨E, E Σ⟩ about the optimum: the loss is quadratic along any line, and the mean gradient is its
// derivative; 1/κ and 1 are the extreme curvatures.
TEST(Quadratic, HasTheGradientAndTheConditionThatItSays) {
  const auto task =
      prepare_task(parse_spec("quadratic:rows=5,cols=7,condition=50,noise=0"), {}).make(3);
  Weights weights = task->start();
  const std::vector<std::size_t> batch{0};
  Matrix g;
  const auto loss = [&](const Weights& w) { return task->evaluate(w, Split::validation).loss; };
  task->loss_and_gradients(weights, batch, {},
                           [&](const std::string& name, const Gradient& gradient) {
                             if (name == "w") g = gradient.materialize();
                           });
  const Matrix along = normal({5, 7}, 1, Stream(1, Purpose::test));
  Weights plus = weights, minus = weights;
  axpy(plus["w"], 0.5, along);
  axpy(minus["w"], -0.5, along);
  EXPECT_NEAR(loss(plus) - loss(minus), dot(g, along), 1e-9 * std::abs(loss(weights)));
  Matrix sigma = zeros({7, 7});  // column by column, from the change of the gradient
  for (std::size_t j = 0; j < 7; ++j) {
    Weights moved = task->start();
    moved["w"](0, j) += 1;
    task->loss_and_gradients(moved, batch, {}, [&](const std::string&, const Gradient& gradient) {
      const Matrix change = difference(gradient.materialize(), g);
      for (std::size_t k = 0; k < 7; ++k) sigma(k, j) = change(0, k);
    });
  }
  const SymmetricEigen eigen = symmetric_eigen(sigma);
  EXPECT_NEAR(eigen.values.front(), 1.0 / 50, 1e-12);
  EXPECT_NEAR(eigen.values.back(), 1, 1e-12);
  EXPECT_EQ(task->evaluate(weights, Split::old).loss, 0);
}

// Mean over N draws: zero beside the exact gradient within five standard errors, variance noise²/B.
TEST(Quadratic, NoiseIsThatOfABatch) {
  const auto task = prepare_task(parse_spec("quadratic:rows=4,cols=3,noise=0.5"), {}).make(1);
  const auto gradient = [&](std::vector<std::size_t> batch) {
    Matrix g;
    task->loss_and_gradients(
        task->start(), batch, {},
        [&](const std::string&, const Gradient& one) { g = one.materialize(); });
    return g;
  };
  const auto exact = prepare_task(parse_spec("quadratic:rows=4,cols=3,noise=0"), {}).make(1);
  Matrix truth;
  exact->loss_and_gradients(
      exact->start(), std::vector<std::size_t>{0}, {},
      [&](const std::string&, const Gradient& g) { truth = g.materialize(); });
  const std::size_t draws = 2000;
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < draws; ++i) {
    const Matrix off = difference(gradient({4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3}), truth);
    for (std::size_t k = 0; k < off.size(); ++k) sum += off.data()[k];
    squares += squared_norm(off);
  }
  const double count = 12.0 * draws, variance = 0.25 / 4;
  EXPECT_LT(std::abs(sum / count), 5 * std::sqrt(variance / count));
  EXPECT_NEAR(squares / count, variance, 5 * variance * std::sqrt(2 / count));
  EXPECT_EQ(gradient({7}), gradient({7}));
}

}  // namespace
}  // namespace gradview
