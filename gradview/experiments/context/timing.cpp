#include "gradview/experiments/context/timing.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "gradview/core/rng.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

Tokens random_tokens(std::size_t vocabulary, std::size_t length, std::size_t sequences) {
  Stream stream(1, Purpose::data, "times");
  std::vector<std::int32_t> ids(length * sequences);
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(stream.below(vocabulary));
  return pack(ids, std::vector<std::uint8_t>(ids.size(), 1), length);
}

}  // namespace

Interval TimedLength::ratio() const {
  std::vector<double> logs;
  for (std::size_t i = 0; i < full.size(); ++i) logs.push_back(std::log(sparse[i] / full[i]));
  const Interval log = t_interval(logs);
  return {std::exp(log.mean), std::exp(log.low), std::exp(log.high)};
}

std::vector<TimedLength> time_steps(LanguageModel model, const Weights& weights,
                                    const Training& training, const TimingSettings& settings) {
  using Clock = std::chrono::steady_clock;
  std::vector<TimedLength> times;
  for (const std::size_t length : settings.lengths) {
    const std::size_t sequences = std::max<std::size_t>(1, settings.tokens / length);
    const std::size_t group = std::max<std::size_t>(2, length / settings.parts);
    TimedLength timed{length, group, sequences * length, {}, {}};
    const Tokens tokens = random_tokens(model.trunk.vocabulary, length, sequences);
    const std::vector<std::int32_t> labels = next_ids(tokens);
    model.trunk.positions = length;
    for (std::size_t repeat = 0; repeat <= settings.repeats; ++repeat) {
      for (const bool sparse : {false, true}) {
        throw_if_stop_requested();
        model.trunk.group = sparse ? std::optional(group) : std::nullopt;
        const auto begin = Clock::now();
        model.loss_and_gradients(weights, tokens, labels, training,
                                 [](const std::string&, const Gradient&) {});
        const std::chrono::duration<double> seconds = Clock::now() - begin;
        if (repeat > 0) (sparse ? timed.sparse : timed.full).push_back(seconds.count());
      }
    }
    times.push_back(std::move(timed));
  }
  return times;
}

std::string times_csv(const std::vector<TimedLength>& times) {
  std::string text =
      csv_line({"length", "group", "tokens", "repeat", "full_seconds", "sparse_seconds"});
  for (const TimedLength& timed : times) {
    for (std::size_t i = 0; i < timed.full.size(); ++i) {
      text += csv_line({std::to_string(timed.length), std::to_string(timed.group),
                        std::to_string(timed.tokens), std::to_string(i + 1), exact(timed.full[i]),
                        exact(timed.sparse[i])});
    }
  }
  return text;
}

}  // namespace gradview
