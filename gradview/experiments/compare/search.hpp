// Search: what one curve tries next, and what was best. A curve is a spec, of which a knob makes
// several, under an optimizer.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "gradview/experiments/metrics.hpp"
#include "gradview/experiments/tuning.hpp"

namespace gradview {

struct Candidate {  // the knob is set in the curve's method
  Curve curve;
  double lr = 0;
};

struct SearchRule {
  std::vector<double> rates;          // exactly these, under every value of the knob
  std::optional<std::size_t> trials;  // exactly so many; else each value of the knob is searched
};

class Search {
 public:
  Search(const Curve& listed, SearchRule rule);

  const Curve& listed() const { return listed_; }                     // as the user wrote it
  const std::vector<Curve>& alternatives() const { return curves_; }  // one per value of the knob
  std::vector<Candidate> next() const;                                // none when it is over
  void record(const Candidate& candidate, double score);              // higher is better
  void settle(const Candidate& candidate) { best_ = candidate; }      // without a search
  Candidate best() const;
  std::vector<double> scores() const;  // of every candidate

 private:
  using Point = std::pair<std::size_t, double>;  // value of the knob, rate
  Candidate at(const Point& point) const { return {curves_[point.first], point.second}; }
  Tried tried(std::size_t value) const;
  Trials trials() const;

  Curve listed_;
  SearchRule rule_;
  std::vector<Curve> curves_;
  std::map<Point, double> scores_;
  std::optional<Candidate> best_;
};

}  // namespace gradview
