// What a step costs: counts against sums done by hand, the seconds' bookkeeping, the reasons.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "gradview/experiments/cost/reasons.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// One block of q, k, v, o: 2 x 2, up: 3 x 2, down: 2 x 3, over 5 tokens: entries 4·4 + 2·6 = 28.
const LinearBlocks kBlock{.width = 2, .hidden = 3, .layers = 1};
constexpr std::size_t kTokens = 5;

StepWork work_of(const std::string& name, const Scenario& scenario, std::size_t rank = 1,
                 const LinearBlocks& model = kBlock) {
  for (const Priced& method : priced_methods(rank, 10)) {
    if (method.name == name) return step_work(model, kTokens, rank, scenario, method);
  }
  throw std::invalid_argument(name);
}
double flops(const StepWork& work, Part part) {
  return work.parts[static_cast<std::size_t>(part)].flops;
}
double numbers(const StepWork& work, Part part) {
  return work.parts[static_cast<std::size_t>(part)].bytes / sizeof(Real);
}

TEST(CostCounting, ForwardAndDeltaAreTheProductsThatAreDone) {
  const std::vector<Scenario> where = scenarios(kBlock, 2);
  for (const Scenario& scenario : where) {  // 2 · 5 tokens · 28 entries
    EXPECT_EQ(flops(work_of("full", scenario), Part::forward), 280);
  }
  EXPECT_EQ(flops(work_of("lora", where[0]), Part::delta), 10 * (4 + 6 + 6));  // o, up, down
  EXPECT_EQ(flops(work_of("lora", where[1]), Part::delta), 10 * 6);            // down
  EXPECT_EQ(flops(work_of("lora", where[2]), Part::delta), 10 * (4 + 6 + 6));
  const LinearBlocks two{.width = 2, .hidden = 3, .layers = 2};
  EXPECT_EQ(flops(work_of("lora", scenarios(two, 2)[0], 1, two), Part::delta), 280 + 160);
  // x (5 x 2), W (3 x 2) and y (5 x 3) of up, likewise down; x, W, y of the four others
  EXPECT_EQ(numbers(work_of("full", where[0]), Part::forward),
            2 * (10 + 6 + 15) + 4 * (10 + 4 + 10));
}

TEST(CostCounting, TheGradientIsFormedWhereAMethodFormsIt) {
  const std::vector<Scenario> where = scenarios(kBlock, 2);
  EXPECT_EQ(flops(work_of("full", where[0]), Part::weight_gradient), 280);
  EXPECT_EQ(flops(work_of("lora, formed", where[0]), Part::weight_gradient), 280);
  EXPECT_EQ(flops(work_of("lora, formed", where[2]), Part::weight_gradient), 2 * 40);
  for (const char* method : {"lora", "random, sgd", "additive", "loha", "galore"}) {
    EXPECT_EQ(flops(work_of(method, where[0]), Part::weight_gradient), 0) << method;
  }
}

TEST(CostCounting, ProjectionsAreTheirThinProducts) {
  const Scenario all = scenarios(kBlock, 2)[0];
  const double sides = 4 * 4 + 2 * 5;  // Σ m + n
  EXPECT_EQ(flops(work_of("full", all), Part::project), 0);
  EXPECT_EQ(flops(work_of("lora", all), Part::project), 4 * 5 * sides);
  EXPECT_EQ(flops(work_of("lora", all, 2), Part::project), 4 * 5 * 2 * sides);
  EXPECT_EQ(flops(work_of("lora, formed", all, 2), Part::project), 4 * 2 * 28);
  EXPECT_EQ(flops(work_of("additive", all), Part::project), 5 * sides + 2 * 5 * sides);
  EXPECT_EQ(flops(work_of("galore", all), Part::project), 2 * 5 * sides);
  // r²(m + n) against mn: 5 against 6 for up and down, (4N + 5) r²(m + n); 4 against 4 for the
  // others, which have blocks of G: (2N + 12r + 2) mn
  EXPECT_EQ(flops(work_of("loha", all), Part::project), 2 * 25 * 5 + 4 * 24 * 4);
  EXPECT_EQ(flops(work_of("loha", all), Part::update), (12 + 8) * 28 + 2 * 26);
  EXPECT_EQ(flops(work_of("lora", all, 50), Part::project), 4 * 5 * 2 * sides);  // rank capped at 2
}

TEST(CostCounting, RuleAndExchangeGoByTheNumbersTrained) {
  const Scenario all = scenarios(kBlock, 2)[0];
  struct Expected {
    const char* method;
    double trained, rule_flops, rule_numbers;
  };
  const Expected expected[] = {{"full", 28, 14, 7},         {"full, sgd", 28, 2, 3},
                               {"lora, formed", 26, 13, 5}, {"lora", 26, 13, 5},
                               {"random, sgd", 26, 1, 1},   {"additive", 26, 13, 5},
                               {"loha", 52, 13, 5},         {"galore", 4 * 2 + 3 + 3, 13, 5}};
  for (const auto& [method, trained, rule_flops, rule_numbers] : expected) {
    const StepWork work = work_of(method, all);
    EXPECT_EQ(work.trained, trained) << method;
    EXPECT_EQ(work.exchange_bytes, trained * sizeof(Real)) << method;
    EXPECT_EQ(flops(work, Part::rule), trained * rule_flops) << method;
    EXPECT_EQ(numbers(work, Part::rule), trained * rule_numbers) << method;
  }
  EXPECT_EQ(work_of("galore", all).refresh_exchange_bytes, 28 * sizeof(Real));
  EXPECT_EQ(work_of("lora", all).refresh_exchange_bytes, 0);
  EXPECT_EQ(flops(work_of("full", all), Part::update), 0);  // W is moved by the rule
  EXPECT_EQ(flops(work_of("lora", all), Part::update), 4 * 28 + 26);
  EXPECT_EQ(numbers(work_of("lora", all), Part::update), 2 * 28 + 2 * 26);
}

TEST(CostCounting, ARingSendsTwiceAllButOneShare) {
  EXPECT_DOUBLE_EQ(ring_seconds(1.25e9, 2, 10), 1);  // 10 Gbit at 10 Gbit/s, 2 · 1/2
  EXPECT_DOUBLE_EQ(ring_seconds(1.25e9, 8, 10), 1.75);
}

TEST(CostEstimate, IsTheMedianWithOrderStatistics) {
  const auto up_to = [](std::size_t n) {
    std::vector<double> values(n);
    std::iota(values.begin(), values.end(), 1);
    std::reverse(values.begin(), values.end());
    return values;
  };
  EXPECT_TRUE(std::isnan(estimate({}).median));
  EXPECT_TRUE(std::isnan(estimate(up_to(5)).low));  // 2 · 2⁻⁵ > 0.05
  EXPECT_EQ(estimate(up_to(6)).low, 1);             // 2 · 2⁻⁶ < 0.05
  EXPECT_EQ(estimate(up_to(6)).high, 6);
  EXPECT_EQ(estimate(up_to(6)).median, 3.5);
  EXPECT_EQ(estimate(up_to(15)).low, 4);  // P(at most 3 of 15 below) = 576/2¹⁵ = 0.0176
  EXPECT_EQ(estimate(up_to(15)).high, 12);
}

TEST(Optimizer, SecondsGoToTheirParts) {
  Matrix w = identity(40);
  Optimizer optimizer({.spec = make_optimizer_spec({"adam", {}}), .lr = 1e-3, .seed = 1});
  const auto projector = [&](const char* spec) {
    return make_projector(parse_spec(spec), Site{"w", w, 1});
  };
  optimizer.add("w", w, projector("galore:rank=2,refresh_every=2"));
  const Gradient g = Gradient::dense(identity(40));
  optimizer.collect("w", g);
  const StepSeconds first = optimizer.seconds();
  EXPECT_GT(first.refresh, 0);
  EXPECT_GT(first.project, 0);
  EXPECT_EQ(first.rule, 0);
  EXPECT_EQ(first.update, 0);
  optimizer.step();
  const StepSeconds second = optimizer.seconds();
  EXPECT_EQ(second.refresh, first.refresh);
  EXPECT_EQ(second.project, first.project);
  EXPECT_GT(second.rule, 0);
  EXPECT_GT(second.update, 0);
}

class CostFindings : public testing::Test {  // seconds that are known, eight rounds of them alike
 protected:
  CostFindings() : where_(scenarios(kBlock, 2)), methods_(priced_methods(1, 10)) {
    for (const Scenario& scenario : where_) {
      for (const Priced& method : methods_) {
        cases_.push_back({&scenario, &method, &arithmetics().front()});
        SecondsOfParts parts{1, 1, 0, 0, 0, 0};
        const bool all = &scenario == where_.data();
        if (method.name == "full") parts[2] = all ? 8 : 4;          // 10, 6
        if (method.name == "lora, formed") parts[2] = all ? 5 : 3;  // 7, 5
        if (method.name == "lora") parts[3] = 1;                    // 3, 3
        if (method.name == "additive") parts[4] = 1;
        if (method.name == "full, sgd") parts[5] = 1;
        cases_.back().rounds.assign(8, parts);
      }
    }
  }
  const Reason& find(const Findings& findings, const std::string& scenario,
                     const std::string& reason) const {
    for (const Reason& r : findings.attribution().reasons) {
      if (r.scenario == scenario && r.reason == reason) return r;
    }
    throw std::invalid_argument(reason);
  }

  Plan plan_{.model = kBlock, .tokens = kTokens, .rank = 1};
  std::vector<Scenario> where_;
  std::vector<Priced> methods_;
  std::vector<Case> cases_;
};

TEST_F(CostFindings, ReasonsAddUpToWhatIsSaved) {
  // full sends 28 numbers, lora 26, over a network so slow that this saves 7 s.
  const double bits = 8 * sizeof(Real) * (28 - 26);
  const Network network{.workers = 2, .gigabits = bits / 7 * 1e-9};
  const Findings findings(plan_, cases_, network);
  const auto seconds = [&](const char* reason) {
    return find(findings, "all layers", reason).seconds.median;
  };
  EXPECT_EQ(seconds("fewer matrices"), 0);
  EXPECT_EQ(seconds("fewer numbers"), 3);
  EXPECT_EQ(seconds("factorisation"), 4);
  EXPECT_EQ(seconds("computing"), 7);
  EXPECT_DOUBLE_EQ(seconds("communication"), 7);
  EXPECT_DOUBLE_EQ(find(findings, "all layers", "factorisation").share.median, 4.0 / 7);
  EXPECT_DOUBLE_EQ(find(findings, "all layers", "factorisation").together.median, 4.0 / 14);
  EXPECT_EQ(find(findings, "last 2", "fewer matrices").seconds.median, 4);
  EXPECT_EQ(find(findings, "last 2", "fewer numbers").seconds.median, 1);
  EXPECT_EQ(find(findings, "last 2", "factorisation").seconds.median, 2);
  EXPECT_EQ(findings.attribution().most("all layers"), "communication");
  EXPECT_DOUBLE_EQ(findings.attribution().balances[0].gigabits.median, network.gigabits);
  const Findings fast(plan_, cases_, {.workers = 2, .gigabits = 1});
  EXPECT_EQ(fast.attribution().most("all layers"), "factorisation");
  EXPECT_EQ(fast.attribution().most("last 2"), "fewer matrices");
}

TEST_F(CostFindings, VerdictsFollowTheIntervals) {
  const auto verdicts = [&] {
    std::vector<std::string> out;
    const Findings findings(plan_, cases_, {});
    for (const Claim& claim : findings.claims()) out.push_back(claim.verdict());
    return out;
  };
  EXPECT_EQ(verdicts(), (std::vector<std::string>{"does not", "does not", "holds", "does not",
                                                  "undecided", "does not"}));
  for (Case& one : cases_) {
    if (one.method->name == "lora") one.rounds[0][3] = one.rounds[1][3] = 50;  // two of eight
    if (one.method->name == "random, sgd") one.rounds.assign(8, {1, 1, 5, 0, 0, 0});
  }
  EXPECT_EQ(verdicts(), (std::vector<std::string>{"does not", "undecided", "undecided", "holds",
                                                  "undecided", "does not"}));
}

TEST(CostSteps, PartsAreTheSameWorkForAllAndOnlyFormersForm) {
  const Plan plan{.model = {.width = 8, .hidden = 12, .layers = 2},
                  .tokens = 4,
                  .rank = 2,
                  .repeats = 3,
                  .refreshes = 2};
  const std::vector<Scenario> where = scenarios(plan.model, 3);
  const std::vector<Priced> methods = priced_methods(plan.rank, 50);
  std::vector<Case> cases;
  for (const Scenario& scenario : where) {
    for (const Priced& method : methods) {
      cases.push_back({&scenario, &method, &arithmetics().front()});
    }
  }
  Progress progress(true);
  measure(plan, cases, progress);
  for (const Case& one : cases) {
    SCOPED_TRACE(one.method->name);
    ASSERT_EQ(one.rounds.size(), 3u);
    EXPECT_EQ(one.refreshes.size(), one.method->name == "galore" ? 2u : 0u);
    const StepWork counted =
        step_work(plan.model, plan.tokens, plan.rank, *one.scenario, *one.method);
    for (const SecondsOfParts& round : one.rounds) {
      EXPECT_EQ(round[0], cases[0].rounds[static_cast<std::size_t>(&round - one.rounds.data())][0]);
      for (const double seconds : round) EXPECT_GE(seconds, 0);
      EXPECT_EQ(round[2] > 0, counted.parts[2].flops > 0);  // formed as it is counted
      EXPECT_EQ(round[5] > 0, counted.parts[5].flops > 0);  // full: the rule moves W
    }
  }
  EXPECT_EQ(cases[0].state_bytes, 2 * (4 * 64 + 2 * 96) * 2 * sizeof(Real));  // Adam's two averages
}

}  // namespace
}  // namespace gradview
