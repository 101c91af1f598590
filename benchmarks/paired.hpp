// Contenders timed in turn, in one process: slots of some tens of milliseconds, round after round,
// so that what changes on the machine changes for all of them.
//
//     ratio of a round = seconds per call of one / seconds per call of another, in that round
//
// A slot during which other processes had the CPU for more than a quarter of its time is run again,
// while retries last; after that it is kept, and the note says so.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace gradview::benchmarks {

struct Contender {
  std::string name;
  std::function<void(std::size_t calls)> run;
};

template <class Call>
Contender contender(std::string name, Call call) {
  return {std::move(name), [call = std::move(call)](std::size_t calls) mutable {
            for (std::size_t i = 0; i < calls; ++i) call();
          }};
}

struct Slots {
  double seconds = 0.08;     // of one; a call that takes longer is a slot of its own
  std::size_t rounds = 15;   // one slot of every contender each
  std::size_t retries = 15;  // of all slots together
};

struct Figure {
  double median, low, high;  // low, high: 95 % interval of the median, from order statistics
};
Figure median_interval(std::vector<double> values);

class Race {
 public:
  Race(const std::vector<Contender>& contenders, const Slots& slots);

  const std::vector<double>& seconds(std::size_t contender) const {  // per call, one per round
    return seconds_[contender];
  }
  Figure ratio(std::size_t slow, std::size_t fast) const;  // of the first's time to the second's
  // f(seconds per call of every contender) of each round.
  Figure figure(const std::function<double(const std::vector<double>&)>& f) const;
  double median(std::size_t contender) const;
  // "fused 1.62 ms (least 1.60), two sgemm 9.4 ms (least 9.3); 2 of 30 slots were disturbed"
  std::string note() const;

 private:
  std::vector<std::string> names_;
  std::vector<std::vector<double>> seconds_;
  std::size_t disturbed_ = 0;
};

}  // namespace gradview::benchmarks
