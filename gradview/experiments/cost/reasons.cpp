#include "gradview/experiments/cost/reasons.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "gradview/experiments/statistics.hpp"

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using Rounds = std::vector<double>;
Rounds each(std::size_t rounds, const std::function<double(std::size_t)>& value) {
  Rounds out;
  for (std::size_t i = 0; i < rounds; ++i) out.push_back(value(i));
  return out;
}

using Parts = std::vector<Part>;
const Parts kAllParts{Part::forward, Part::delta, Part::weight_gradient,
                      Part::project, Part::rule,  Part::update};
const Parts kOfTheGradient{Part::weight_gradient, Part::project, Part::rule, Part::update};

double seconds_of(const Case& one, std::size_t round, const Parts& parts) {
  double sum = 0;
  for (const Part part : parts) sum += one.rounds[round][static_cast<std::size_t>(part)];
  return sum;
}

double flops_of(const StepWork& work, const Parts& parts) {
  double sum = 0;
  for (const Part part : parts) sum += work.parts[static_cast<std::size_t>(part)].flops;
  return sum;
}

}  // namespace

Estimate estimate(const std::vector<double>& values) {
  if (values.empty()) return {kNaN, kNaN, kNaN};
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t n = sorted.size();
  const double middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
  // P(fewer than k of n lie below the median) <= 0.025 for the largest such k; [x_k, x_(n+1−k)]
  const boost::math::binomial coin(static_cast<double>(n), 0.5);
  std::size_t k = 0;
  while (k < n / 2 && boost::math::cdf(coin, static_cast<double>(k)) <= 0.025) ++k;
  if (k == 0) return {middle, kNaN, kNaN};
  return {middle, sorted[k - 1], sorted[n - k]};
}

std::string Claim::verdict() const {
  return ratio.low > 1 ? "holds" : ratio.high < 1 ? "does not" : "undecided";
}

std::string Attribution::most(const std::string& scenario) const {
  for (const Reason& one : reasons) {
    if (one.scenario != scenario || one.reason == "computing") continue;
    const bool first = std::all_of(reasons.begin(), reasons.end(), [&](const Reason& other) {
      return &other == &one || other.scenario != scenario || other.reason == "computing" ||
             one.together.low > other.together.high;
    });
    if (first) return one.reason;
  }
  return "undecided";
}

Findings::Findings(const Plan& plan, const std::vector<Case>& cases, const Network& network)
    : cases_(cases) {
  std::vector<std::string> seen;
  for (const Case& one : cases) {
    work_.push_back(step_work(plan.model, plan.tokens, plan.rank, *one.scenario, *one.method));
  }
  for (const Case& one : cases) {
    if (std::find(seen.begin(), seen.end(), one.scenario->name) != seen.end()) continue;
    seen.push_back(one.scenario->name);
    attribute(one.scenario->name, network);
  }
  judge();
}

const StepWork& Findings::work(const Case& one) const {
  return work_[static_cast<std::size_t>(&one - cases_.data())];
}

const Case* Findings::find(const std::string& scenario, const std::string& method,
                           const std::string& compute) const {
  for (const Case& one : cases_) {
    if (one.scenario->name == scenario && one.method->name == method &&
        one.compute->name == compute) {
      return &one;
    }
  }
  return nullptr;
}

void Findings::attribute(const std::string& scenario, const Network& network) {
  const std::string everywhere = cases_.front().scenario->name;
  const std::string plain = cases_.front().compute->name;
  struct Link {
    std::string reason;
    const Case *from, *to;
  };
  const Case* const start = find(everywhere, "full", plain);
  const Case* const full = find(scenario, "full", plain);
  const Case* const formed = find(scenario, "lora, formed", plain);
  const Case* end = find(scenario, "lora", plain);
  std::vector<Link> chain{{"fewer matrices", start, full},
                          {"fewer numbers", full, formed},
                          {"factorisation", formed, end}};
  for (const Arithmetic& compute : arithmetics()) {
    const Case* const lower = find(scenario, "lora", compute.name);
    if (!lower || compute.name == plain) continue;
    chain.push_back({fmt::format("precision ({})", compute.name), end, lower});
    end = lower;
  }
  const std::size_t rounds = start->rounds.size();
  const auto saved = [](const Link& link, std::size_t i) {
    return link.from->step(i) - link.to->step(i);
  };
  const Link whole{"computing", start, end};
  const auto bytes = work(*start).exchange_bytes - work(*end).exchange_bytes;
  const double exchange = ring_seconds(bytes, network.workers, network.gigabits);
  const auto add = [&](const Link& link) {
    attribution_.reasons.push_back(
        {scenario, link.reason, estimate(each(rounds, [&](auto i) { return saved(link, i); })),
         estimate(each(rounds, [&](auto i) { return saved(link, i) / saved(whole, i); })),
         estimate(
             each(rounds, [&](auto i) { return saved(link, i) / (saved(whole, i) + exchange); }))});
  };
  for (const Link& link : chain) add(link);
  add(whole);
  attribution_.reasons.push_back(
      {scenario,
       "communication",
       {exchange, exchange, exchange},
       {kNaN, kNaN, kNaN},
       estimate(each(rounds, [&](auto i) { return exchange / (saved(whole, i) + exchange); }))});
  // exchange ∝ 1/bandwidth: equal to the computing saved at this one; none where computing is lost
  attribution_.balances.push_back({scenario, estimate(each(rounds, [&](auto i) {
                                     const double least = std::max(saved(whole, i), 0.0);
                                     return exchange * network.gigabits / least;
                                   }))});
}

void Findings::judge() {
  const std::string everywhere = cases_.front().scenario->name;
  const std::string plain = cases_.front().compute->name;
  const auto add = [&](const char* text, const char* above, const char* below, const Parts& parts) {
    const Case& one = *find(everywhere, above, plain);
    const Case& other = *find(everywhere, below, plain);
    claims_.push_back({text,
                       estimate(each(one.rounds.size(),
                                     [&](auto i) {
                                       return seconds_of(one, i, parts) /
                                              seconds_of(other, i, parts);
                                     })),
                       flops_of(work(one), parts) / flops_of(work(other), parts)});
  };
  add("a LoRA step from G takes longer than a full one", "lora, formed", "full", kAllParts);
  add("a LoRA step from δᵀx takes longer than a full one", "lora", "full", kAllParts);
  add("leaving G as δᵀx saves time of its own", "lora, formed", "lora", kAllParts);
  add("random projection is slower than full SGD", "random, sgd", "full, sgd", kAllParts);
  add("LoRA costs more than additive, from the gradient on", "lora", "additive", kOfTheGradient);
  add("Hadamard costs more than additive, from the gradient on", "loha", "additive",
      kOfTheGradient);
}

}  // namespace gradview
