#include "paired.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

#include "gradview/experiments/driver/program.hpp"

namespace gradview::benchmarks {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// All CPUs' seconds that were not idle since the machine started, those stolen from it among them;
// 0 where /proc is not there.
double machine_seconds() {
  std::ifstream stat("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  stat >> cpu >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  static const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return (user + nice + system + irq + softirq + steal) / ticks;
}

double own_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

struct Slot {
  double seconds, foreign;
};

Slot time_slot(const Contender& contender, std::size_t calls) {
  const double machine = machine_seconds(), own = own_seconds(), begin = now();
  contender.run(calls);
  const double seconds = now() - begin;
  return {seconds, (machine_seconds() - machine) - (own_seconds() - own)};
}

// The machine's clock has ticks of 10 ms, and each CPU may be one off.
bool quiet(const Slot& slot) {
  constexpr double kTick = 0.01;
  return slot.foreign <= std::max(0.25 * slot.seconds, 2 * kTick);
}

std::size_t calls_per_slot(const Contender& contender, double seconds) {
  contender.run(1);  // touches its memory
  for (std::size_t calls = 1;; calls *= 4) {
    const double took = time_slot(contender, calls).seconds;
    if (took * 4 < seconds) continue;
    const double per_call = took / static_cast<double>(calls);
    return std::max<std::size_t>(1, static_cast<std::size_t>(std::lround(seconds / per_call)));
  }
}

double middle(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

std::string readable(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.3g} us", 1e6 * seconds)
                        : fmt::format("{:.3g} ms", 1e3 * seconds);
}

}  // namespace

// The k-th smallest and the k-th largest, k the largest with P(Binomial(n, 1/2) < k) <= 2.5 %; the
// least and the largest where there are fewer than six.
Figure median_interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  double probability = std::pow(0.5, static_cast<double>(n));  // of k = 0
  double below = 0;
  std::size_t k = 0;
  while (below + probability <= 0.025) {
    below += probability;
    ++k;
    probability *= static_cast<double>(n - k + 1) / static_cast<double>(k);
  }
  k = std::max<std::size_t>(k, 1);
  return {middle(values), values[k - 1], values[n - k]};
}

Race::Race(const std::vector<Contender>& contenders, const Slots& slots)
    : seconds_(contenders.size()) {
  std::vector<std::size_t> calls;
  for (const Contender& contender : contenders) {
    names_.push_back(contender.name);
    calls.push_back(calls_per_slot(contender, slots.seconds));
  }
  std::size_t retries = slots.retries;
  for (std::size_t round = 0; round < slots.rounds; ++round) {
    for (std::size_t turn = 0; turn < contenders.size(); ++turn) {
      const std::size_t i = (round + turn) % contenders.size();
      throw_if_stop_requested();
      Slot slot = time_slot(contenders[i], calls[i]);
      for (; !quiet(slot) && retries > 0; --retries) {
        usleep(20000);
        slot = time_slot(contenders[i], calls[i]);
      }
      if (!quiet(slot)) ++disturbed_;
      seconds_[i].push_back(slot.seconds / static_cast<double>(calls[i]));
    }
  }
}

Figure Race::figure(const std::function<double(const std::vector<double>&)>& f) const {
  std::vector<double> values;
  for (std::size_t round = 0; round < seconds_[0].size(); ++round) {
    std::vector<double> of_round;
    for (const auto& contender : seconds_) of_round.push_back(contender[round]);
    values.push_back(f(of_round));
  }
  return median_interval(values);
}

Figure Race::ratio(std::size_t slow, std::size_t fast) const {
  return figure([&](const std::vector<double>& t) { return t[slow] / t[fast]; });
}

double Race::median(std::size_t contender) const { return middle(seconds_[contender]); }

std::string Race::note() const {
  std::string out;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    const double least = *std::min_element(seconds_[i].begin(), seconds_[i].end());
    out += fmt::format("{}{} {} (least {})", i == 0 ? "" : ", ", names_[i], readable(median(i)),
                       readable(least));
  }
  if (disturbed_ > 0) {
    out += fmt::format("; {} of {} slots were disturbed by other processes, retries ran out",
                       disturbed_, names_.size() * seconds_[0].size());
  }
  return out;
}

}  // namespace gradview::benchmarks
