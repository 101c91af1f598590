#include "gradview/experiments/compare/search.hpp"

#include <algorithm>

#include "gradview/experiments/compare/knob.hpp"

namespace gradview {

Search::Search(const Curve& listed, SearchRule rule) : listed_(listed), rule_(std::move(rule)) {
  for (const std::string& method : gradview::alternatives(listed.method)) {
    curves_.push_back({method, listed.optimizer});
  }
  if (rule_.rates.size() == 1 && curves_.size() == 1) best_ = at({0, rule_.rates[0]});
}

std::vector<Candidate> Search::next() const {
  std::vector<Candidate> out;
  if (best_ || (!rule_.rates.empty() && !scores_.empty())) return out;
  if (rule_.trials) {
    for (const Trial& trial :
         next_trials(trials(), curves_.size(), *rule_.trials, listed_.optimizer)) {
      out.push_back(at({trial.value, rate_at(trial.notch)}));
    }
    return out;
  }
  for (std::size_t value = 0; value < curves_.size(); ++value) {
    std::vector<double> rates = rule_.rates;
    if (rates.empty()) {
      for (const int notch : next_notches(tried(value), listed_.optimizer)) {
        rates.push_back(rate_at(notch));
      }
    }
    for (const double rate : rates) out.push_back(at({value, rate}));
  }
  return out;
}

void Search::record(const Candidate& candidate, double score) {
  const auto value = std::find(curves_.begin(), curves_.end(), candidate.curve) - curves_.begin();
  scores_[{static_cast<std::size_t>(value), candidate.lr}] = score;
}

Candidate Search::best() const {
  if (best_) return *best_;
  if (rule_.trials) {
    const Trial trial = best_trial(trials());
    return at({trial.value, rate_at(trial.notch)});
  }
  const auto worse = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto best = std::max_element(scores_.begin(), scores_.end(), worse)->first;
  if (!rule_.rates.empty()) return at(best);
  return at({best.first, rate_at(best_notch(tried(best.first)))});
}

std::vector<double> Search::scores() const {
  std::vector<double> out;
  for (const auto& [point, score] : scores_) out.push_back(score);
  return out;
}

Tried Search::tried(std::size_t value) const {
  Tried out;
  for (const auto& [point, score] : scores_) {
    if (point.first == value) out[notch_of(point.second)] = score;
  }
  return out;
}

Trials Search::trials() const {
  Trials out;
  for (const auto& [point, score] : scores_) out[{point.first, notch_of(point.second)}] = score;
  return out;
}

}  // namespace gradview
