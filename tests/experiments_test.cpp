// The driver's parts: statistics, tuning, comparison, metrics, flags, jobs, and training on the
// teacher task.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/experiments/adaptation.hpp"
#include "gradview/experiments/compare/comparison.hpp"
#include "gradview/experiments/compare/table.hpp"
#include "gradview/experiments/driver/flags.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/metrics.hpp"
#include "gradview/experiments/statistics.hpp"
#include "gradview/experiments/sweep.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/experiments/tuning.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;
using Values = std::vector<double>;
using OneRun = Run;  // within a test, Run is a function of GoogleTest's
using Runs = std::vector<Run>;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Folder {  // a temporary one
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "gradview-experiments-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string file(const std::string& text) const {
    std::ofstream(*this / "file") << text;
    return *this / "file";
  }

 private:
  fs::path path_;
};

template <class E = std::invalid_argument>
std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// Student's t with 4 degrees of freedom has a closed form: F = 1/2 + 3/8 x (1 − x²/12) with
// x = t/√(1 + t²/4).
double two_sided_p(double t) {
  const double x = t / std::sqrt(1 + t * t / 4);
  return 2 * (0.5 - 0.375 * x * (1 - x * x / 12));
}

TEST(Statistics, TIntervalAndTestAreThoseOfStudent) {
  const Values values{1, 2, 3, 4, 5};  // mean 3, standard error √½
  const Interval interval = t_interval(values);
  const double half = 2.7764451051977987 * std::sqrt(0.5);  // t(0.975, 4), from tables
  EXPECT_EQ(interval.mean, 3);
  EXPECT_NEAR(interval.low, 3 - half, 1e-12);
  EXPECT_NEAR(interval.high, 3 + half, 1e-12);
  EXPECT_NEAR(t_test(values), two_sided_p(3 / std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(t_test({-1, -2, -3, -4, -5}), t_test(values), 1e-15);
  EXPECT_NEAR(two_sided_p(2.7764451051977987), 0.05, 1e-12);
}

TEST(Statistics, TooFewOrInfiniteValuesGiveNoInterval) {
  for (const Values& values : {Values{}, Values{2}, Values{1, kInfinity}, Values{1, kNaN}}) {
    EXPECT_TRUE(std::isnan(t_interval(values).low) && std::isnan(t_interval(values).high));
    EXPECT_TRUE(std::isnan(t_test(values)));
  }
  EXPECT_EQ(t_interval({2}).mean, 2);
  EXPECT_EQ(t_test({0, 0, 0}), 1);
  EXPECT_EQ(t_test({0.5, 0.5, 0.5}), 0);
}

TEST(Statistics, HolmMultipliesByWhatIsLeftAndStaysInOrder) {
  const Values adjusted = holm({0.01, 0.04, kNaN, 0.03, 0.005, 0.9});
  const Values expected{0.04, 0.09,  kNaN,
                        0.09, 0.025, 0.9};  // 5 · .005, 4 · .01, 3 · .03, 2 · .04 < .09
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(adjusted[i]));
    } else {
      EXPECT_NEAR(adjusted[i], expected[i], 1e-15) << i;
    }
  }
  EXPECT_EQ(holm({0.6, 0.7}), (Values{1, 1}));
  EXPECT_EQ(holm({}), Values{});
}

TEST(Statistics, MedianIsTheLowerMiddleAndKnowsInfinity) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2);
  EXPECT_EQ(median({1, kInfinity, kInfinity}), kInfinity);
  EXPECT_TRUE(std::isnan(median({})));
}

TEST(Statistics, VerdictFollowsTheIntervalAndThenP) {
  struct Case {
    Interval difference;
    double p;
    std::string verdict;
  };
  const std::vector<Case> cases{{{0.001, -0.004, 0.004}, 0.5, "equivalent"},
                                {{0.003, 0.002, 0.004}, 0.001, "equivalent"},  // real, but small
                                {{0.01, 0.004, 0.016}, 0.01, "better"},
                                {{-0.01, -0.016, -0.004}, 0.01, "worse"},
                                {{0.01, 0.001, 0.019}, 0.06, "undecided"},  // after Holm
                                {{0.001, -0.01, 0.012}, 0.8, "undecided"},
                                {{0.5, kNaN, kNaN}, kNaN, "undecided"}};  // one seed
  for (const Case& c : cases) EXPECT_EQ(verdict(c.difference, c.p, 0.005), c.verdict);
}

struct Search {
  int best;
  std::size_t trials;
};

Search search(const std::string& optimizer, const std::function<double(int)>& score) {
  Tried tried;
  for (int round = 0; round < 200; ++round) {
    const std::vector<int> next = next_notches(tried, optimizer);
    if (next.empty()) return {best_notch(tried), tried.size()};
    for (const int notch : next) {
      EXPECT_EQ(tried.count(notch), 0u) << "tried again: " << notch;
      tried[notch] = score(notch);
    }
  }
  ADD_FAILURE() << "the search does not end";
  return {};
}

TEST(Tuning, FindsTheOptimumOfAUnimodalCurve) {
  EXPECT_DOUBLE_EQ(rate_at(-8), 0.1);
  EXPECT_EQ(next_notches({}, "sgd:momentum=0.9"), (std::vector{-16, -12, -8, -4, 0}));
  EXPECT_EQ(next_notches({}, "adamw"), (std::vector{-32, -28, -24, -20, -16}));
  for (const char* optimizer : {"sgd", "adam"}) {
    for (int peak = -64; peak <= 40; ++peak) {
      const auto score = [&](int notch) { return -std::abs(notch - peak) - (notch > peak) * 0.5; };
      const Search found = search(optimizer, score);
      EXPECT_EQ(found.best, peak) << optimizer;
      EXPECT_LE(found.trials, 30u) << optimizer << ", optimum at " << peak;
    }
  }
}

TEST(Tuning, FindsTheOptimumBesideACliff) {
  for (int edge = -50; edge <= 30; ++edge) {  // better and better, then it diverges
    const Search found = search("sgd", [&](int n) { return n <= edge ? n : -kInfinity; });
    EXPECT_EQ(found.best, edge);
  }
}

TEST(Tuning, EndsWhereNothingIsBetter) {
  EXPECT_LE(search("adam", [](int) { return 0.1; }).trials, 30u);
  EXPECT_LE(search("sgd", [](int) { return -kInfinity; }).trials, 30u);
  EXPECT_EQ(best_notch({{-4, 0.5}, {0, 0.7}, {4, 0.7}, {8, 0.1}}), 4);  // of equals, the largest
}

struct Point {
  std::size_t step;
  double accuracy, old_accuracy, old_loss;
};

OneRun made(const Curve& curve, double lr, std::uint64_t seed, const std::vector<Point>& points,
            double test, bool diverged = false) {
  OneRun run{curve, lr, seed, {}};
  const auto add = [&](std::size_t step, const char* split, double loss, double accuracy) {
    Row row;
    row.step = step;
    row.split = split;
    row.loss = loss;
    row.accuracy = accuracy;
    row.trainable = 70;
    row.state_bytes = 560;
    run.rows.push_back(row);
  };
  for (const Point& p : points) {
    add(p.step, "old", p.old_loss, p.old_accuracy);
    add(p.step, "validation", 1, p.accuracy);
  }
  if (diverged) {
    run.rows.back().diverged = true;
  } else {
    add(points.back().step, "train", 1, 0.5);
    add(points.back().step, "test", 2, test);
  }
  return run;
}

Evidence evidence(const Curve& curve, const std::vector<const OneRun*>& reported,
                  std::vector<const OneRun*> more = {}) {
  Evidence out;
  out.curve = curve;
  out.lr = 0.5;
  out.reported = reported;
  out.all = reported;
  out.all.insert(out.all.end(), more.begin(), more.end());
  out.step_seconds = 0.25;
  return out;
}

// Everything is a multiple of 1/16, so that the arithmetic is exact. Target: median ¾ − ¼ = ½.
class Compared : public testing::Test {
 protected:
  const Curve full_{"full", "sgd"}, lora_{"lora", "sgd"}, other_{"full", "adam"};
  const Runs fulls_{
      made(full_, 0.5, 1, {{0, 0, 1, 1}, {10, 0.25, 0.75, 2}, {20, 0.75, 0.25, 4}}, 0.75),
      made(full_, 0.5, 2, {{0, 0, 1, 1}, {10, 0.25, 0.75, 2}, {20, 0.75, 0.25, 4}}, 0.8125),
      made(full_, 0.5, 3, {{0, 0, 1, 1}, {10, 0.5, 0.75, 2}, {20, 1, 0.25, 4}}, 0.875)};
  const Runs loras_{
      made(lora_, 0.5, 1, {{0, 0, 1, 1}, {10, 0.25, 0.875, 1.5}, {20, 0.375, 0.5, 3}}, 0.5),
      made(lora_, 0.5, 2, {{0, 0, 1, 1}, {10, 0.25, 0.875, 1.5}, {20, 0.375, 0.5, 3}}, 0.625),
      made(lora_, 0.5, 3, {{0, 0, 1, 1}, {10, 0.125, 0.875, 1.5}, {20, 0.625, 0.5, 3}}, 0.75)};

  static std::vector<const OneRun*> pointers(const Runs& runs) {
    std::vector<const OneRun*> out;
    for (const OneRun& run : runs) out.push_back(&run);
    return out;
  }
};

TEST_F(Compared, StepsToTargetAreInterpolatedAndInfiniteWhereMissed) {
  const Table table = compare(
      {evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_))}, {}, 0.005, 0.25);
  ASSERT_EQ(table.targets.size(), 1u);
  EXPECT_EQ(table.targets[0].second, 0.5);
  const auto steps = [&](std::size_t line) {
    Values all;
    for (const SeedResult& seed : table.lines[line].seeds) all.push_back(seed.steps_to_target);
    return all;
  };
  EXPECT_EQ(steps(0), (Values{15, 15, 10}));
  EXPECT_EQ(steps(1), (Values{kInfinity, kInfinity, 17.5}));
  EXPECT_EQ(table.lines[0].steps_to_target, 15);
  EXPECT_EQ(table.lines[0].step_ratio, 1);
  EXPECT_EQ(table.lines[0].seconds_to_target, 15 * 0.25);
  EXPECT_EQ(table.lines[1].steps_to_target, kInfinity);
  EXPECT_EQ(table.lines[1].step_ratio, kInfinity);
}

TEST_F(Compared, DifferencesArePairedBySeedAndJudgedAfterHolm) {
  Runs adam = fulls_;
  for (auto& run : adam) run.curve = other_;
  const Table table = compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_)),
                               evidence(other_, pointers(adam))},
                              {}, 0.005, 0.25);
  const Line& lora = table.lines[1];
  const Values differences{-0.25, -0.1875, -0.125};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(lora.seeds[i].difference, differences[i]);
  EXPECT_EQ(lora.difference.mean, -0.1875);
  EXPECT_EQ(lora.difference.low, t_interval(differences).low);
  EXPECT_EQ(lora.adjusted_p, t_test(differences));  // the only one that is not a reference
  EXPECT_EQ(lora.verdict, "worse");
  EXPECT_EQ(table.lines[0].verdict, "reference");
  EXPECT_EQ(table.lines[2].verdict, "reference");  // of its own optimizer
  EXPECT_EQ(table.targets.size(), 2u);
  EXPECT_EQ(lora.trainable, 70u);
  EXPECT_EQ(lora.state_bytes, 560u);
  EXPECT_EQ(lora.old_accuracy, 0.5);

  const Table three = compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_)),
                               evidence(lora_, pointers(loras_))},
                              {}, 0.005, 0.25);
  EXPECT_EQ(three.lines[1].adjusted_p, 2 * t_test(differences));
}

TEST_F(Compared, ContrastsAreJudgedTogetherWithTheDifferences) {
  const Curve random{"random", "sgd"};
  const Runs randoms{made(random, 0.5, 1, {{0, 0, 1, 1}}, 0.25),
                     made(random, 0.5, 2, {{0, 0, 1, 1}}, 0.25),
                     made(random, 0.5, 3, {{0, 0, 1, 1}}, 0.5)};
  const Table table = compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_)),
                               evidence(random, pointers(randoms))},
                              {{"lora", "random"}, {"lora", "bitfit"}}, 0.005, 0.25);
  ASSERT_EQ(table.contrasts.size(), 1u);  // bitfit was not run
  const Contrast& contrast = table.contrasts[0];
  const Values differences{0.25, 0.375, 0.25};
  EXPECT_EQ(contrast.optimizer, "sgd");
  EXPECT_EQ(contrast.difference.low, t_interval(differences).low);
  const Values adjusted = holm(
      {t_test({-0.25, -0.1875, -0.125}), t_test({-0.5, -0.5625, -0.375}), t_test(differences)});
  EXPECT_EQ(table.lines[1].adjusted_p, adjusted[0]);
  EXPECT_EQ(table.lines[2].adjusted_p, adjusted[1]);
  EXPECT_EQ(contrast.adjusted_p, adjusted[2]);
  EXPECT_EQ(contrast.verdict, adjusted[2] < 0.05 ? "better" : "undecided");
}

TEST_F(Compared, DivergedRunsStayInWithAccuracyZero) {
  Runs runs = loras_;
  runs[1] = made(lora_, 0.5, 2, {{0, 0, 1, 1}, {10, 0.9, 0, 9}}, 0, true);
  const Line line =
      compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(runs))}, {}, 0.005, 0.25)
          .lines[1];
  EXPECT_EQ(line.diverged, 1u);
  EXPECT_EQ(line.seeds[1].accuracy, 0);
  EXPECT_EQ(line.seeds[1].difference, -0.8125);
  EXPECT_EQ(line.seeds[1].steps_to_target, kInfinity);  // the row that diverged does not count
}

TEST_F(Compared, ForgettingIsMatchedAtTheHighestAccuracyOfBoth) {
  // Seed 1 also saw a second rate; the others did not and are left out. Level: lora's best, ½ under
  // its second rate, there at its end; full gets there at its step 20 only.
  const auto second = made(lora_, 0.25, 1, {{0, 0, 1, 1}, {20, 0.5, 0.375, 5}}, 0.5);
  const auto fulls_second = made(full_, 0.25, 1, {{0, 0, 1, 1}, {20, 0.25, 0.875, 2}}, 0.25);
  const Table table = compare({evidence(full_, pointers(fulls_), {&fulls_second}),
                               evidence(lora_, pointers(loras_), {&second})},
                              {}, 0.005, 0.25);
  const Matched matched = table.lines[1].matched.value();
  EXPECT_EQ(matched.seeds, 1u);
  EXPECT_EQ(matched.new_accuracy, 0.5);
  EXPECT_EQ(matched.old_accuracy, 0.375);
  EXPECT_EQ(matched.old_loss, 5);
  EXPECT_EQ(matched.reference_old_accuracy, 0.25);
  EXPECT_EQ(matched.reference_old_loss, 4);
  // Without them the level of seeds 1 and 2 is ⅜, that of seed 3 ⅝: lora at its end, full at its
  // step 20.
  const Matched all =
      compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_))}, {}, 0.005,
              0.25)
          .lines[1]
          .matched.value();
  EXPECT_EQ(all.seeds, 3u);
  EXPECT_DOUBLE_EQ(all.new_accuracy, (0.375 + 0.375 + 0.625) / 3);
  EXPECT_EQ(all.old_accuracy, 0.5);
  EXPECT_EQ(all.reference_old_accuracy, 0.25);
}

TEST_F(Compared, RateAndKnobComeBackFromTheTable) {
  const Folder folder;
  Table table = compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_))}, {},
                        0.005, 0.25);
  std::ofstream(folder / "table.csv") << table_csv(table);
  EXPECT_EQ(chosen_in_table(folder / "", {{"lora:rank=3", "sgd"}, lora_}).curve, lora_);
  EXPECT_EQ(chosen_in_table(folder / "", {lora_}).lr, 0.5);
  EXPECT_THROW(chosen_in_table(folder / "", {other_}), DataError);
  EXPECT_THROW(chosen_in_table(folder / "", {{"lora", "adam"}, {"lora:rank=3", "sgd"}}), DataError);
  const std::string text = table_text(table, 0.005);
  for (const char* part : {"full", "lora", "worse", "∞", "-18.75"})
    EXPECT_TRUE(has(text, part)) << text;
}

TEST_F(Compared, RowsAreGroupedByTheirShareOfAdamsState) {
  EXPECT_EQ(state_group(0, 1000), "below 5 %");
  EXPECT_EQ(state_group(49, 1000), "below 5 %");
  EXPECT_EQ(state_group(50, 1000), "5 to 25 %");
  EXPECT_EQ(state_group(250, 1000), "25 to 100 %");
  EXPECT_EQ(state_group(999, 1000), "25 to 100 %");
  EXPECT_EQ(state_group(1000, 1000), "100 % or more");
  Table table = compare({evidence(full_, pointers(fulls_)), evidence(lora_, pointers(loras_))}, {},
                        0.005, 0.25);
  table.full_adam_bytes = 800;
  table.lines[0].state_bytes = 800;
  table.lines[1].state_bytes = 80;
  EXPECT_FALSE(has(table_text(table, 0.005), "state 5 to 25 %"));
  const std::string text = table_text(table, 0.005, true);
  const std::vector<std::string> order{"method", "state 5 to 25 %", "\nlora", "state 100 % or more",
                                       "\nfull"};
  std::size_t at = 0;
  for (int half = 0; half < 2; ++half) {  // of both tables
    for (const std::string& part : order) {
      at = text.find(part, at);
      ASSERT_NE(at, text.npos) << part << " is not in its place:\n" << text;
    }
  }
  const Folder folder;
  const CsvTable csv = read_csv(folder.file(table_csv(table)));
  EXPECT_EQ(csv.header.back(), "state_group");
  EXPECT_EQ(csv.rows.front().back(), "100 % or more");
  EXPECT_EQ(csv.rows.back().back(), "5 to 25 %");
}

TEST_F(Compared, ContrastsKnowCurvesByTheSpecAsListed) {
  Evidence chosen = evidence(lora_, pointers(loras_));
  chosen.listed = "lora:alpha=1|4";
  const Table table = compare({evidence(full_, pointers(fulls_)), chosen},
                              {{"lora:alpha=1|4", "full"}, {"lora", "full"}}, 0.005, 0.25);
  ASSERT_EQ(table.contrasts.size(), 1u);
  EXPECT_EQ(table.contrasts[0].method, "lora");
  EXPECT_EQ(table.contrasts[0].difference.mean, -0.1875);
}

TEST(Metrics, RowsComeBackAsTheyWereWritten) {
  const Curve curve{"lora:rank=2,alpha=3", "adam:eps=1e-9,beta1=0.5"};  // commas are quoted
  OneRun run =
      made(curve, 0.1, 18446744073709551ULL, {{0, 0.1, 0.2, 0.3}, {10, 0.4, 0.5, 0.6}}, 0.7);
  run.rows[0].grad_norm = kNaN;
  run.rows[0].gain = kInfinity;
  run.rows[1].loss = std::nullopt;
  run.rows[1].second_order = 1e-300;
  run.rows[2].cosine = -1.0 / 3;
  run.rows[2].train_seconds = 0.1;
  run.rows[2].wall_seconds = 12.5;
  run.rows[2].lr_used = 0.1 / 3;
  run.rows[2].diverged = true;
  const OneRun other = made({"full", "sgd"}, 1, 2, {{0, 1, 1, 1}}, 1);
  const Folder folder;
  const std::string text = metrics_header() + metrics_text(run) + metrics_text(other);
  const Runs read = read_metrics(folder.file(text));
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].curve, curve);
  EXPECT_EQ(read[0].seed, run.seed);
  EXPECT_EQ(metrics_header() + metrics_text(read[0]) + metrics_text(read[1]), text);
  EXPECT_TRUE(std::isnan(*read[0].rows[0].grad_norm));
  EXPECT_EQ(*read[0].rows[0].gain, kInfinity);
  EXPECT_FALSE(read[0].rows[1].loss.has_value());
  EXPECT_EQ(*read[0].rows[2].cosine, -1.0 / 3);
  EXPECT_TRUE(read[0].rows[2].diverged);
  const std::string torn = text.substr(0, text.size() - 5);
  EXPECT_EQ(read_metrics(folder.file(torn))[1].rows.size(), other.rows.size() - 1);
  EXPECT_THROW(read_metrics(folder.file("a,b\n1,2\n")), DataError);
  EXPECT_TRUE(metrics_header().starts_with(
      "method,optimizer,lr,seed,step,split,loss,accuracy,grad_norm,update_norm,gain,cosine,"
      "state_bytes,train_seconds,wall_seconds,diverged"));
}

TEST(BatchOrder, TakesEveryExampleOncePerEpoch) {
  BatchOrder order(3, 10), same(3, 10), other(4, 10);
  std::vector<std::size_t> drawn, drawn_by_other;
  for (int i = 0; i < 10; ++i) {  // three epochs in batches that do not divide them
    const auto batch = order.next(3);
    EXPECT_EQ(batch.size(), 3u);
    EXPECT_EQ(batch, same.next(3));
    drawn.insert(drawn.end(), batch.begin(), batch.end());
    const auto others = other.next(3);
    drawn_by_other.insert(drawn_by_other.end(), others.begin(), others.end());
  }
  EXPECT_NE(drawn, drawn_by_other);
  std::set<std::vector<std::size_t>> epochs;
  for (std::size_t epoch = 0; epoch < 3; ++epoch) {
    const auto begin = drawn.begin() + static_cast<std::ptrdiff_t>(10 * epoch);
    std::vector<std::size_t> seen(begin, begin + 10);
    epochs.insert(seen);
    std::sort(seen.begin(), seen.end());
    std::vector<std::size_t> all(10);
    std::iota(all.begin(), all.end(), std::size_t{0});
    EXPECT_EQ(seen, all);
  }
  EXPECT_EQ(epochs.size(), 3u);                      // a fresh permutation each
  EXPECT_EQ(BatchOrder(3, 4).next(11).size(), 11u);  // larger than an epoch
}

TEST(Jobs, AreAllDoneOnce) {
  for (const std::size_t jobs : {1, 2, 7}) {
    std::vector<std::atomic<int>> done(50);
    run_jobs(50, jobs, [&](std::size_t i) { ++done[i]; });
    EXPECT_TRUE(
        std::all_of(done.begin(), done.end(), [](const auto& count) { return count == 1; }));
    run_jobs(0, jobs, [](std::size_t) { FAIL(); });
  }
}

TEST(Jobs, FirstExceptionEndsThem) {
  for (const std::size_t jobs : {1, 3}) {
    std::atomic<int> done = 0;
    const auto work = [&](std::size_t i) {
      if (i == 5) throw std::runtime_error("five");
      ++done;
    };
    EXPECT_EQ(refusal<std::runtime_error>([&] { run_jobs(100000, jobs, work); }), "five");
    EXPECT_LT(done, 99999);
  }
}

struct Settings {
  std::size_t steps = 300;
  double margin = 0.5;
  std::optional<double> lr;
  std::string task = "fashion", biases = "frozen";
  std::vector<std::string> projectors{"full"};
  bool quiet = false;
  nlohmann::ordered_json resolved;
};

Settings parsed(std::vector<const char*> words) {
  Settings s;
  Flags flags("program", "does nothing");
  flags.count("steps", s.steps, {.least = 1}, "steps");
  flags.number("margin", s.margin, {.least = 0}, "margin");
  flags.number("lr", s.lr, {.least = 0, .open_below = true}, "tuned", "rate");
  flags.text("task", s.task, "SPEC", "task");
  flags.choice("biases", s.biases, {"frozen", "trained"}, "biases");
  flags.list("projector", s.projectors, "SPEC", "projectors");
  flags.flag("quiet", s.quiet, "quiet");
  words.insert(words.begin(), "program");
  flags.parse(static_cast<int>(words.size()), words.data());
  s.resolved = flags.resolved();
  return s;
}

TEST(Flags, AreReadAndKeepTheirDefaults) {
  const Settings none = parsed({});
  EXPECT_EQ(none.steps, 300u);
  EXPECT_FALSE(none.lr.has_value());
  const Settings s =
      parsed({"--steps", "7", "--lr=1e-3", "--projector", "full", "lora:rank=2,alpha=3", "--quiet",
              "--biases", "trained", "--task", "teacher:rows=3"});
  EXPECT_EQ(s.steps, 7u);
  EXPECT_EQ(s.lr, 1e-3);
  EXPECT_EQ(s.projectors, (std::vector<std::string>{"full", "lora:rank=2,alpha=3"}));
  EXPECT_TRUE(s.quiet);
  EXPECT_EQ(s.biases, "trained");
  EXPECT_EQ(s.task, "teacher:rows=3");
  EXPECT_EQ(s.margin, 0.5);
}

TEST(Flags, RefuseWhatTheyDoNotKnowOrCannotBe) {
  struct Case {
    std::vector<const char*> words;
    std::vector<std::string> said;
  };
  const std::vector<Case> cases{
      {{"--step", "3"}, {"no flag --step", "did you mean 'steps'?"}},
      {{"--stepps=3"}, {"no flag --stepps", "'steps'"}},
      {{"--steps", "3", "--steps", "4"}, {"--steps is given twice"}},
      {{"--steps=-1"}, {"--steps is '-1'", "at least 1"}},
      {{"--steps", "0"}, {"--steps is '0'"}},
      {{"--steps", "1e3"}, {"--steps is '1e3'", "whole number"}},
      {{"--steps"}, {"steps"}},
      {{"--lr=nan"}, {"--lr is 'nan'"}},
      {{"--lr", "inf"}, {"--lr is 'inf'"}},
      {{"--lr=0"}, {"above 0"}},
      {{"--margin=-0.5"}, {"at least 0"}},
      {{"--biases", "trainde"}, {"frozen, trained", "did you mean 'trained'?"}},
      {{"stray"}, {"a value without a flag"}},
      {{"--quiet=perhaps"}, {"quiet"}}};
  for (const Case& c : cases) {
    const std::string message = refusal([&] { parsed(c.words); });
    for (const std::string& part : c.said)
      EXPECT_TRUE(has(message, part)) << c.words[0] << ": " << message;
  }
}

TEST(Flags, CommandLineComesBeforeTheConfigFile) {
  const Folder folder;
  const std::string file = folder.file(
      R"({"steps": 11, "lr": 0.25, "projector": ["random", "full"], "quiet": true, "task": "teacher"})");
  const Settings s = parsed({"--config", file.c_str(), "--steps", "5"});
  EXPECT_EQ(s.steps, 5u);
  EXPECT_EQ(s.lr, 0.25);
  EXPECT_EQ(s.projectors, (std::vector<std::string>{"random", "full"}));
  EXPECT_TRUE(s.quiet);
  EXPECT_EQ(s.task, "teacher");
  EXPECT_EQ(s.margin, 0.5);
  const Settings again = parsed({"--config", folder.file(s.resolved.dump()).c_str()});
  EXPECT_EQ(again.resolved, s.resolved);
}

TEST(Flags, BadConfigFilesAreRefused) {
  const Folder folder;
  const auto with = [&](const std::string& text) {
    return [&, text] { parsed({"--config", folder.file(text).c_str()}); };
  };
  EXPECT_TRUE(has(refusal(with(R"({"stpes": 3})")), "did you mean 'steps'?"));
  EXPECT_TRUE(has(refusal(with(R"({"steps": -3})")), "--steps is '-3'"));
  EXPECT_TRUE(has(refusal(with(R"({"steps": 2.5})")), "--steps is '2.5'"));
  EXPECT_NE(refusal<DataError>(with(R"({"steps": )")), "");
  EXPECT_NE(refusal<DataError>(with("[3]")), "");
  EXPECT_NE(refusal<DataError>(with(R"({"steps": {"a": 3}})")), "");
  EXPECT_NE(refusal<DataError>([&] { parsed({"--config", (folder / "missing").c_str()}); }), "");
}

TaskFamily teacher(const std::string& spec) { return prepare_task(parse_spec(spec), {}); }

TrainingSettings brief() {
  TrainingSettings s;
  s.steps = 12;
  s.batch_size = 10;
  s.eval_every = 5;
  return s;
}

// A run without what depends on the clock.
std::string timeless(OneRun run) {
  for (Row& row : run.rows) row.train_seconds = row.wall_seconds = 0;
  return metrics_text(run);
}

const std::vector<Curve> kCurves{{"full", "sgd:momentum=0.9"},
                                 {"lora:rank=2,alpha=3", "adam"},
                                 {"random:rank=2", "adam"},
                                 {"additive:rank=2", "sgd"}};

TEST(Training, HasRowsAtTheStartEveryFewStepsAndTheEnd) {
  const auto task = teacher("teacher:rows=12,cols=9,planted=2,examples=64").make(1);
  const OneRun run = train(*task, evaluate_start(*task), kCurves[1], 0.05, 1, true, brief());
  std::vector<std::string> rows;
  for (const Row& row : run.rows) rows.push_back(std::to_string(row.step) + " " + row.split);
  EXPECT_EQ(rows,
            (std::vector<std::string>{"0 old", "0 validation", "0 train", "5 old", "5 validation",
                                      "5 train", "10 old", "10 validation", "10 train", "12 old",
                                      "12 validation", "12 train", "12 test"}));
  EXPECT_LT(*run.last("test")->loss, *run.rows[1].loss);
  EXPECT_EQ(*run.rows[0].loss, 0);  // the start knows the old task
  EXPECT_EQ(run.rows.back().trainable, 2u * (12 + 9));
  EXPECT_EQ(run.rows.back().state_bytes, 2 * 2 * (12 + 9) * sizeof(Real));
  EXPECT_EQ(run.rows[2].lr_used, 0.05);
  EXPECT_NEAR(run.rows[5].lr_used, 0.025 * (1 + std::cos(5 * std::acos(-1.0) / 12)), 1e-15);
  EXPECT_FALSE(run.diverged());
  EXPECT_EQ(train(*task, evaluate_start(*task), kCurves[1], 0.05, 1, false, brief()).last("test"),
            nullptr);
}

TEST(Training, AnyNumberOfJobsAndThreadsGivesTheSameBits) {
  const TaskFamily family = teacher("teacher:rows=12,cols=9,planted=2,examples=64");
  const auto results = [&](std::size_t jobs) {
    std::vector<std::string> out(2 * kCurves.size());
    run_jobs(out.size(), jobs, [&](std::size_t i) {
      const std::uint64_t seed = 1 + i % 2;
      const auto task = family.make(seed);
      out[i] =
          timeless(train(*task, evaluate_start(*task), kCurves[i / 2], 0.05, seed, true, brief()));
    });
    return out;
  };
  EXPECT_EQ(results(1), results(3));
  EXPECT_NE(results(1)[0], results(1)[1]);
  // Large enough for one product to be shared between threads.
  const auto large = teacher("teacher:rows=300,cols=256,planted=2,examples=1000").make(1);
  TrainingSettings s = brief();
  s.steps = 3;
  s.batch_size = 256;
  const std::string one =
      timeless(train(*large, evaluate_start(*large), kCurves[0], 0.05, 1, true, s));
  set_threads(3);
  const std::string three =
      timeless(train(*large, evaluate_start(*large), kCurves[0], 0.05, 1, true, s));
  set_threads(1);
  EXPECT_EQ(one, three);
}

// Micro-batches only change the order of summation: 1e-16 a step, which 12 steps of Adam may
// amplify by the inverse of the smallest gradient, some 1e4.
TEST(Training, AccumulationEqualsTheWholeBatch) {
  const auto task = teacher("teacher:rows=12,cols=9,planted=2,examples=64").make(1);
  for (const Curve& curve : kCurves) {
    TrainingSettings parts = brief();
    parts.accumulate = 4;  // of 10 examples: 2, 3, 2, 3
    const OneRun whole = train(*task, evaluate_start(*task), curve, 0.05, 1, true, brief());
    const OneRun summed = train(*task, evaluate_start(*task), curve, 0.05, 1, true, parts);
    ASSERT_EQ(whole.rows.size(), summed.rows.size());
    for (std::size_t i = 0; i < whole.rows.size(); ++i) {
      EXPECT_NEAR(*summed.rows[i].loss, *whole.rows[i].loss, 1e-10) << curve.method << " row " << i;
    }
    EXPECT_NEAR(*summed.rows[2].grad_norm, *whole.rows[2].grad_norm, 1e-10);
  }
}

TEST(Training, ARunThatDivergesEndsThereAndSaysSo) {
  const auto task = teacher("teacher:rows=12,cols=9,planted=2,examples=64").make(1);
  TrainingSettings s = brief();
  s.steps = 300;
  s.schedule = "constant";
  const OneRun run = train(*task, evaluate_start(*task), kCurves[0], 1e6, 1, true, s);
  EXPECT_TRUE(run.diverged());
  EXPECT_LT(run.rows.back().step, 300u);
  EXPECT_EQ(run.last("test"), nullptr);
  EXPECT_FALSE(std::isfinite(*run.rows.back().loss));
}

class Resumed : public testing::Test {
 protected:
  // The rows of metrics.csv, without the clock.
  std::string rows(const std::string& folder) const {
    std::string text;
    for (const auto& run : read_metrics(folder + "/metrics.csv")) text += timeless(run);
    return text;
  }
  std::string layers(const std::string& folder) const {
    const std::string path = folder + "/layers.csv";
    return fs::exists(path) ? read_text(path) : "";
  }
  // Runs the first `count` keys, and what was interrupted in the middle of the next one.
  void call(const std::string& out, bool resume, std::size_t jobs, std::size_t count, bool torn) {
    RunFolder folder("test", {.out = out, .overwrite = false, .resume = resume});
    folder.begin({{"steps", 12}}, nlohmann::ordered_json::object());
    Progress progress(true);
    TrainingSettings settings = brief();
    settings.watch = watch_;
    Sweep sweep(family_, settings, jobs, folder, progress);
    sweep.prepare({1, 2});
    sweep.restore({1, 2});
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(count);
    sweep.run({keys_.begin(), last});
    if (torn) {
      auto half = train(sweep.task(last->seed), evaluate_start(sweep.task(last->seed)), last->curve,
                        last->lr, last->seed, true, brief());
      half.rows.resize(5);
      half.layers = {{0, "w.weight", "half", 1}};
      const std::string text = metrics_text(half);
      folder.append_rows("layers.csv",
                         (layers(out).empty() ? layers_header() : "") + layers_text(half));
      folder.append_rows("metrics.csv", text.substr(0, text.size() - 9));
    }
    if (count == keys_.size()) sweep.write(keys_);
  }

  const TaskFamily family_ = teacher("teacher:rows=12,cols=9,planted=2,examples=64");
  std::vector<RunKey> keys_ = [] {
    std::vector<RunKey> keys;
    for (const Curve& curve : kCurves) {
      for (const std::uint64_t seed : {1, 2}) keys.push_back({curve, 0.05, seed, true});
    }
    return keys;
  }();
  Watch watch_;
  Folder folder_;
};

TEST_F(Resumed, EndsWithWhatTheUninterruptedCallWrites) {
  call(folder_ / "whole", false, 1, keys_.size(), false);
  call(folder_ / "parts", false, 2, 3, true);
  EXPECT_NE(rows(folder_ / "parts"), rows(folder_ / "whole"));
  call(folder_ / "parts", true, 2, keys_.size(), false);
  EXPECT_EQ(rows(folder_ / "parts"), rows(folder_ / "whole"));
}

TEST_F(Resumed, LayersComeBackAsTheUninterruptedCallWritesThem) {
  watch_ = [](const Watched& seen) {
    Matrix moved = difference(seen.weights["w.weight"], seen.start["w.weight"]);
    seen.add("w.weight", "moved", squared_norm(moved));
    if (seen.step < 12) seen.add("w.weight", "gain", seen.optimizer.observation("w.weight").gain());
  };
  call(folder_ / "whole", false, 1, keys_.size(), false);
  call(folder_ / "parts", false, 2, 3, true);
  EXPECT_NE(layers(folder_ / "parts"), layers(folder_ / "whole"));
  call(folder_ / "parts", true, 2, keys_.size(), false);
  EXPECT_EQ(layers(folder_ / "parts"), layers(folder_ / "whole"));
  const auto read = read_layers(folder_ / "whole/layers.csv");
  EXPECT_EQ(read.size(), keys_.size());
  const auto& rows = read.at({"full", "sgd:momentum=0.9", 0.05, 1});
  ASSERT_EQ(rows.size(), 7u);   // two at each of 0, 5 and 10, one at the end
  EXPECT_GT(rows[0].value, 0);  // step 0 is done
  EXPECT_NEAR(rows[1].value, 1, 1e-12);
  EXPECT_EQ(rows[6].step, 12u);
  EXPECT_TRUE(read_text(folder_ / "whole/layers.csv")
                  .starts_with("method,optimizer,lr,seed,step,parameter,key,value\n"));
}

TEST_F(Resumed, ThereIsNoLayersFileWithoutRows) {
  call(folder_ / "run", false, 1, 2, true);
  EXPECT_NE(layers(folder_ / "run"), "");  // of the run that was interrupted
  call(folder_ / "run", true, 1, keys_.size(), false);
  EXPECT_EQ(layers(folder_ / "run"), "");
}

TEST(Layers, OnlyReportedRunsHaveThem) {
  const auto task = teacher("teacher:rows=12,cols=9,planted=2,examples=64").make(1);
  TrainingSettings s = brief();
  s.watch = [](const Watched& seen) { seen.add("w.weight", "key", 1); };
  const auto rows = [&](bool test) {
    return train(*task, evaluate_start(*task), kCurves[0], 0.05, 1, test, s).layers.size();
  };
  EXPECT_EQ(rows(false), 0u);
  EXPECT_EQ(rows(true), 4u);
}

TEST(Layers, AFileOfAnotherKindIsRefused) {
  const Folder folder;
  EXPECT_THROW(read_layers(folder.file("a,b\n1,2\n")), DataError);
}

TEST_F(Resumed, SkipsWhatIsFinished) {
  call(folder_ / "run", false, 1, 2, false);
  const auto first = read_metrics(folder_ / "run/metrics.csv");
  call(folder_ / "run", true, 1, keys_.size(), false);
  const auto all = read_metrics(folder_ / "run/metrics.csv");
  EXPECT_EQ(metrics_text(all[0]), metrics_text(first[0]));  // with its seconds: not run again
  EXPECT_EQ(all.size(), keys_.size());
}

TEST_F(Resumed, RunFoldersRefuseWhatWouldMixRuns) {
  const std::string out = folder_ / "run";
  const auto open = [&](bool overwrite, bool resume) {
    RunFolder folder("test", {.out = out, .overwrite = overwrite, .resume = resume});
    folder.begin({{"steps", 13}, {"jobs", 2}}, nlohmann::ordered_json::object());
  };
  EXPECT_THROW(open(false, true), CheckpointError);  // nothing there
  open(false, false);
  EXPECT_FALSE(fs::exists(out));  // no row came of it
  call(out, false, 1, 1, false);
  EXPECT_THROW(open(false, false), IoError);
  EXPECT_TRUE(has(refusal([&] { open(false, true); }), "--steps was 12 and is now 13"));
  EXPECT_THROW(open(true, true), std::invalid_argument);
  EXPECT_TRUE(fs::exists(out + "/metrics.csv"));
}

Weights two_layers() {
  Weights w;
  w.add("fc1.weight", zeros({6, 9}));
  w.add("fc1.bias", zeros({1, 6}));
  w.add("fc2.weight", zeros({3, 6}));
  return w;
}

TEST(Adaptation, PutsEveryProjectorWhereItIsAsked) {
  const auto planned = [](Adaptation a) {
    std::map<std::string, std::string> out;
    for (const Planned& p : plan(a, two_layers(), {"fc2.weight"})) {
      out[p.name] = p.projector ? to_string(*p.projector) : "frozen";
      if (!p.note.empty()) out[p.name] += " (" + p.note + ")";
    }
    return out;
  };
  using Plan = std::map<std::string, std::string>;
  const Spec lora = parse_spec("lora:rank=4,alpha=3");
  EXPECT_EQ(planned({.projector = lora, .overrides = {}}),
            (Plan{{"fc1.weight", "lora:rank=4,alpha=3"},
                  {"fc1.bias", "frozen"},
                  {"fc2.weight", "lora:rank=4,alpha=3 (rank capped at 3)"}}));
  EXPECT_EQ(
      planned({.projector = lora,
               .target = "fc1",
               .overrides = {},
               .train_rest = true,
               .train_biases = true}),
      (Plan{{"fc1.weight", "lora:rank=4,alpha=3"}, {"fc1.bias", "full"}, {"fc2.weight", "full"}}));
  EXPECT_EQ(planned({.projector = lora, .overrides = {{"fc2", {{"rank", "2"}}}}})["fc2.weight"],
            "lora:rank=2,alpha=3");
  EXPECT_TRUE(has(planned({.projector = parse_spec("additive"), .overrides = {}})["fc2.weight"],
                  "softmax"));
  EXPECT_EQ(planned({.projector = parse_spec("bitfit"), .overrides = {}})["fc1.bias"], "full");
}

TEST(Adaptation, HasAPlaceForOneCurve) {
  const auto planned = [](const std::string& method, const std::string& also = "") {
    TrainingSettings settings;
    settings.target = "fc1";
    settings.also = also;
    std::string trained;
    for (const Planned& p : plan(adaptation_of(method, settings), two_layers(), {})) {
      if (p.trained > 0) trained += p.name + "=" + p.projector->name + " ";
    }
    return trained;
  };
  EXPECT_EQ(planned("lora:rank=2"), "fc1.weight=lora ");
  EXPECT_EQ(planned("lora:rank=2@fc2|none"), "fc2.weight=lora ");
  EXPECT_EQ(planned("lora:rank=2@fc2&bias"), "fc1.bias=full fc2.weight=lora ");
  EXPECT_EQ(planned("lora:rank=2", "fc2"), "fc1.weight=lora fc2.weight=full ");
  EXPECT_EQ(planned("lora:rank=2@fc1&fc1", "fc2"),
            "fc1.weight=full fc1.bias=full fc2.weight=full ");
  EXPECT_EQ(planned("bitfit@fc1.bias"), "fc1.bias=full ");
  EXPECT_TRUE(has(refusal([&] { planned("bitfit@fc2.bias"); }), "matches no parameter"));
  EXPECT_TRUE(has(refusal([&] { planned("lora@fc1&head"); }), "--also 'head'"));
  for (const char* malformed : {"lora@", "lora@&bias", "lora@fc1&"}) {
    EXPECT_TRUE(has(refusal([&] { parse_placed(malformed); }), "empty place")) << malformed;
  }
}

TEST(Adaptation, RefusesWhatMatchesOrFitsNowhere) {
  const auto message = [](Adaptation a) { return refusal([&] { plan(a, two_layers(), {}); }); };
  const Spec lora = parse_spec("lora:rank=4");
  EXPECT_TRUE(has(message({.projector = parse_spec("lora:rank=7"), .overrides = {}}), "rank 7"));
  EXPECT_TRUE(
      has(message({.projector = lora, .target = "fc3", .overrides = {}}), "matches no matrix"));
  EXPECT_TRUE(
      has(message({.projector = lora, .target = "bias", .overrides = {}}), "matches no matrix"));
  EXPECT_TRUE(
      has(message({.projector = lora, .target = "(", .overrides = {}}), "regular expression"));
  EXPECT_TRUE(has(message({.projector = lora, .overrides = {{"head", {{"rank", "2"}}}}}),
                  "--override 'head'"));
  EXPECT_EQ(message({.projector = lora, .overrides = {}}), "");
}

}  // namespace
}  // namespace gradview
