// A fixed number of trials per curve: knobs, the search, and the expected best of k.
#include "gradview/experiments/compare/trials.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gradview/experiments/compare/knob.hpp"
#include "gradview/experiments/compare/search.hpp"
#include "gradview/experiments/tuning.hpp"

namespace gradview {
namespace {

using Values = std::vector<double>;
using Texts = std::vector<std::string>;
using Score = std::function<double(const Trial&)>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string refusal(const std::string& spec) {
  try {
    alternatives(spec);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(Knob, StandsForOneSpecPerValue) {
  EXPECT_EQ(alternatives("full"), Texts{"full"});
  EXPECT_EQ(alternatives("lora:rank=8,alpha=3"), Texts{"lora:rank=8,alpha=3"});
  EXPECT_EQ(alternatives("lora:alpha=1|4|16,rank=8"),
            (Texts{"lora:alpha=1,rank=8", "lora:alpha=4,rank=8", "lora:alpha=16,rank=8"}));
  EXPECT_EQ(alternatives("full@query|value"), Texts{"full@query|value"});
  EXPECT_EQ(alternatives("lora:alpha=1|4@a|b&c"),
            (Texts{"lora:alpha=1@a|b&c", "lora:alpha=4@a|b&c"}));
  EXPECT_EQ(alternatives("lora:init=zero|symmetric"),
            (Texts{"lora:init=zero", "lora:init=symmetric"}));
}

TEST(Knob, RefusesASecondOneAndEmptyOrRepeatedValues) {
  struct Case {
    std::string spec, said;
  };
  for (const Case& c :
       std::vector<Case>{{"lora:rank=1|2,alpha=3|4", "two knobs, 'rank' and 'alpha'"},
                         {"lora:rank=1|", "empty value"},
                         {"lora:rank=|1", "empty value"},
                         {"lora:rank=1||2", "empty value"},
                         {"lora:rank=|", "empty value"},
                         {"lora:alpha=1|2|1", "'1' twice"},
                         {"lora:alpha=1|1.0", "'1.0' twice"},
                         {"lora:init=zero|zero", "'zero' twice"}}) {
    const std::string message = refusal(c.spec);
    EXPECT_NE(message.find(c.said), message.npos) << c.spec << ": " << message;
    EXPECT_NE(message.find(c.spec), message.npos) << message;
    EXPECT_EQ(message.find('\n'), message.npos) << message;
  }
}

// Every trial in the order of the search.
std::vector<Trial> searched(std::size_t values, std::size_t budget, const Score& score,
                            Trials* done = nullptr, const std::string& optimizer = "adam") {
  Trials trials;
  std::vector<Trial> order;
  while (true) {
    const std::vector<Trial> next = next_trials(trials, values, budget, optimizer);
    if (next.empty()) break;
    for (const Trial& trial : next) {
      EXPECT_EQ(trials.count(trial), 0u) << "done again: " << trial.value << ", " << trial.notch;
      EXPECT_LT(trial.value, values);
      trials[trial] = score(trial);
      order.push_back(trial);
    }
    if (order.size() > budget) break;
  }
  if (done) *done = trials;
  return order;
}

TEST(Trials, AreExactlySoManyAndNoneIsDoneTwice) {
  const std::vector<Score> landscapes{
      [](const Trial&) { return 0.5; },
      [](const Trial&) { return -kInfinity; },
      [](const Trial& t) { return t.notch <= -20 ? 0.01 * t.notch : -kInfinity; },
      [](const Trial& t) { return 0.01 * t.notch; },
      [](const Trial& t) { return -0.01 * t.notch; },
      [](const Trial& t) { return t.value == 0 ? -kInfinity : -std::abs(t.notch + 20.0); }};
  for (const Score& score : landscapes) {
    for (const std::size_t values : {1, 2, 5}) {
      for (const std::size_t budget :
           {std::size_t{5}, std::size_t{9}, std::size_t{16}, kMostTrials}) {
        if (budget < least_trials(values)) continue;
        EXPECT_EQ(searched(values, budget, score).size(), budget) << values;
      }
    }
  }
}

TEST(Trials, BeginWithTheGridThenTheOtherValuesAtItsBestRate) {
  EXPECT_EQ(least_trials(1), 5u);
  EXPECT_EQ(least_trials(4), 8u);
  const Score score = [](const Trial& t) {
    return -std::abs(t.notch + 25.0) - 10.0 * std::abs(static_cast<double>(t.value) - 2);
  };
  // The best rate of the grid is −24; of the values there the third, with −25 its best.
  const std::vector<Trial> expected{{0, -32}, {0, -28}, {0, -24}, {0, -20}, {0, -16}, {1, -24},
                                    {2, -24}, {3, -24}, {2, -28}, {2, -20}, {2, -26}, {2, -22},
                                    {2, -25}, {2, -23}, {2, -29}, {2, -21}};
  EXPECT_EQ(searched(4, 16, score), expected);
  const std::vector<Trial> first(expected.begin(), expected.begin() + 9);
  EXPECT_EQ(searched(4, 9, score), first);
}

TEST(Trials, FindTheBestRateOfTheBestValue) {
  for (const std::size_t values : {1, 3, 4}) {
    for (std::size_t best = 0; best < values; ++best) {
      for (int peak = -34; peak <= -14; ++peak) {  // the grid of adam and a quarter decade more
        Trials done;
        const Score score = [&](const Trial& t) {
          return -std::abs(t.notch - peak) - (t.notch > peak) * 0.5 - 100.0 * (t.value != best);
        };
        searched(values, 16, score, &done);
        const Trial found = best_trial(done);
        EXPECT_EQ(found.value, best) << peak;
        EXPECT_LE(std::abs(found.notch - peak), 1) << values << " values, best " << peak;
      }
    }
  }
}

TEST(Trials, WidenTheGridButKeepEnoughForTheOtherValues) {
  const Score rising = [](const Trial& t) {
    return 1.0 * t.notch + 0.1 * static_cast<double>(t.value);
  };
  const std::vector<Trial> order = searched(3, 9, rising, nullptr, "sgd");
  const std::vector<Trial> expected{{0, -16}, {0, -12}, {0, -8}, {0, -4}, {0, 0},
                                    {0, 4},   {0, 8},   {1, 8},  {2, 8}};
  EXPECT_EQ(order, expected);
}

// One search through Search, as the program does it.
Search finished(const Curve& curve, SearchRule rule,
                const std::function<double(Candidate)>& score) {
  Search search(curve, std::move(rule));
  for (int round = 0; round < 200; ++round) {
    const auto next = search.next();
    if (next.empty()) return search;
    for (const Candidate& each : next) search.record(each, score(each));
  }
  ADD_FAILURE() << "the search does not end";
  return search;
}

double score_of(const Candidate& c) {  // alpha=4 is best, at 10^-2.5
  const double off = std::abs(std::log10(c.lr) + 2.5);
  return (c.curve.method == "lora:alpha=4" ? 1 : 0.5) - off;
}

TEST(Searching, ChoosesRateAndKnobTogetherUnderEveryRule) {
  const Curve curve{"lora:alpha=1|4|16", "adam"};
  for (const SearchRule& rule : {SearchRule{}, SearchRule{.rates = {}, .trials = 16},
                                 SearchRule{.rates = {rate_at(-20)}, .trials = {}},
                                 SearchRule{.rates = {0.001, rate_at(-20), 0.1}, .trials = {}}}) {
    const Search search = finished(curve, rule, score_of);
    EXPECT_EQ(search.best().curve, (Curve{"lora:alpha=4", "adam"}));
    EXPECT_DOUBLE_EQ(search.best().lr, rate_at(-20));
    const std::size_t fixed = rule.trials.value_or(3 * rule.rates.size());
    EXPECT_TRUE(fixed == 0 || search.scores().size() == fixed);
  }
}

TEST(Searching, IsNotNeededWhereThereIsOneCandidate) {
  const Search one({"full", "sgd"}, {.rates = {0.5}, .trials = {}});
  EXPECT_TRUE(one.next().empty());
  EXPECT_EQ(one.best().lr, 0.5);
  EXPECT_EQ(Search({"lora:alpha=1|4", "sgd"}, {.rates = {0.5}, .trials = {}}).next().size(), 2u);
  Search settled({"lora:alpha=1|4", "sgd"}, {});
  settled.settle({{"lora:alpha=4", "sgd"}, 0.25});
  EXPECT_TRUE(settled.next().empty());
  EXPECT_EQ(settled.best().curve.method, "lora:alpha=4");
}

// All subsets of size k of at most 16 values, counted one by one.
double enumerated(const Values& scores, int k) {
  double sum = 0;
  double count = 0;
  for (unsigned set = 0; set < 1u << scores.size(); ++set) {
    if (std::popcount(set) != k) continue;
    double best = -kInfinity;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (set >> i & 1u) best = std::max(best, std::isinf(scores[i]) ? 0 : scores[i]);
    }
    sum += best;
    ++count;
  }
  return sum / count;
}

// The weights are positive and sum to one, so that the error is that of a sum of N terms: N eps.
// The enumeration adds up to C(11, 5) = 462 subsets.
TEST(ExpectedBest, IsTheMeanOverAllSubsets) {
  for (const Values& scores : {Values{0.3}, Values{0.2, 0.9}, Values{0.5, 0.5, 0.5},
                               Values{0.1, 0.7, 0.7, -kInfinity, 0.4, 0.65, 0.2},
                               Values{0.9, 0.1, 0.3, 0.2, 0.8, 0.85, 0.4, 0.33, 0.6, 0.61, 0.05},
                               Values{-kInfinity, -kInfinity}}) {
    const Values expected = expected_best(scores);
    ASSERT_EQ(expected.size(), scores.size());
    for (std::size_t k = 1; k <= scores.size(); ++k) {
      EXPECT_NEAR(expected[k - 1], enumerated(scores, static_cast<int>(k)), 500 * 2.3e-16) << k;
    }
  }
  EXPECT_EQ(expected_best({}), Values{});
}

TEST(ExpectedBest, IsWrittenPerCurve) {
  Table table;
  table.lines.resize(2);
  table.lines[0].curve = {"full", "adam"};
  table.lines[1].curve = {"lora:rank=1,alpha=2", "adam"};
  EXPECT_EQ(trials_csv(table, {{0.5, 0.25}, {-kInfinity}}),
            "method,optimizer,k,expected_best\n"
            "full,adam,1,0.375\n"
            "full,adam,2,0.5\n"
            "\"lora:rank=1,alpha=2\",adam,1,0\n");
}

}  // namespace
}  // namespace gradview
