#include "gradview/experiments/tuned.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gradview/core/error.hpp"
#include "gradview/experiments/tuning.hpp"

namespace gradview {
namespace {

constexpr double kDiverged = -std::numeric_limits<double>::infinity();

std::vector<std::uint64_t> counted(std::size_t count, std::uint64_t before) {
  std::vector<std::uint64_t> seeds(count);
  for (std::size_t i = 0; i < count; ++i) seeds[i] = before + 1 + i;
  return seeds;
}

double last_validation(const Run& run, std::optional<double> Row::*column, double sign) {
  const Row* last = run.last("validation");
  if (run.diverged() || !last || !(last->*column) || !std::isfinite(*(last->*column)))
    return kDiverged;
  return sign * *(last->*column);
}

Tried tried(const TunedCurve& curve) {
  Tried out;
  for (const auto& [rate, score] : curve.scores) {
    out[notch_of(rate)] = score;
  }
  return out;
}

std::vector<double> next_rates(const TunedCurve& curve, const TuneSettings& settings) {
  if (!settings.rates.empty()) return curve.scores.empty() ? settings.rates : std::vector<double>{};
  std::vector<double> rates;
  for (const int notch : next_notches(tried(curve), curve.curve.optimizer)) {
    if (settings.refine || notch % (kPerDecade / 2) == 0) rates.push_back(rate_at(notch));
  }
  return rates;
}

double best_rate(const TunedCurve& curve, const TuneSettings& settings) {
  if (!settings.rates.empty()) {
    const auto worse = [](const auto& a, const auto& b) { return a.second < b.second; };
    return std::max_element(curve.scores.begin(), curve.scores.end(), worse)->first;
  }
  return rate_at(best_notch(tried(curve)));
}

double mean_score(const Sweep& sweep, const Curve& curve, double rate,
                  const TuneSettings& settings) {
  double sum = 0;
  for (const std::uint64_t seed : settings.seeds.tuning()) {
    sum += settings.judge(sweep.result({curve, rate, seed, false}));
  }
  return sum / static_cast<double>(settings.seeds.tune);
}

}  // namespace

std::vector<std::uint64_t> Seeds::reported() const { return counted(report, 0); }
std::vector<std::uint64_t> Seeds::tuning() const { return counted(tune, 1000); }
std::vector<std::uint64_t> Seeds::all() const {
  std::vector<std::uint64_t> both = reported();
  const std::vector<std::uint64_t> more = tuning();
  both.insert(both.end(), more.begin(), more.end());
  return both;
}

double final_accuracy(const Run& run) { return last_validation(run, &Row::accuracy, 1); }
double final_loss(const Run& run) { return last_validation(run, &Row::loss, -1); }

std::vector<TunedCurve> run_tuned(Sweep& sweep, Progress& progress,
                                  const std::vector<Curve>& curves, const TuneSettings& settings) {
  std::vector<TunedCurve> out;
  for (const Curve& curve : curves) out.push_back({curve, 0, {}, {}});
  const bool tunes = settings.rates.size() != 1;
  std::vector<RunKey> searched;
  while (tunes) {
    std::vector<RunKey> wave;
    std::vector<std::vector<double>> rates;
    for (const TunedCurve& curve : out) {
      rates.push_back(next_rates(curve, settings));
      for (const double rate : rates.back()) {
        for (const std::uint64_t seed : settings.seeds.tuning()) {
          wave.push_back({curve.curve, rate, seed, false});
        }
      }
    }
    if (wave.empty()) break;
    const std::size_t usual = (settings.refine ? 9 : 6) * settings.seeds.tune * curves.size();
    progress.expect(std::max(searched.size() + wave.size(), usual) +
                    settings.seeds.report * curves.size());
    sweep.run(wave);
    searched.insert(searched.end(), wave.begin(), wave.end());
    for (std::size_t c = 0; c < out.size(); ++c) {
      for (const double rate : rates[c]) {
        out[c].scores[rate] = mean_score(sweep, out[c].curve, rate, settings);
      }
    }
  }
  std::vector<RunKey> reported;
  for (TunedCurve& curve : out) {
    curve.lr = tunes ? best_rate(curve, settings) : settings.rates.front();
    for (const std::uint64_t seed : settings.seeds.reported()) {
      reported.push_back({curve.curve, curve.lr, seed, true});
    }
  }
  progress.expect(searched.size() + reported.size());
  sweep.run(reported);
  std::vector<RunKey> order;
  for (TunedCurve& curve : out) {
    const std::size_t first = order.size();
    for (const auto& keys : {searched, reported}) {
      for (const RunKey& key : keys) {
        if (key.curve == curve.curve) order.push_back(key);
      }
    }
    std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(first), order.end(),
                     [](const RunKey& a, const RunKey& b) {
                       return std::tuple(a.test, a.lr, a.seed) < std::tuple(b.test, b.lr, b.seed);
                     });
    for (const std::uint64_t seed : settings.seeds.reported()) {
      curve.runs.push_back(&sweep.result({curve.curve, curve.lr, seed, true}));
    }
  }
  sweep.write(order);
  return out;
}

void require_some_run(const std::vector<TunedCurve>& curves, const RunFolder& folder) {
  const bool some = std::any_of(curves.begin(), curves.end(), [](const TunedCurve& curve) {
    return std::any_of(curve.runs.begin(), curve.runs.end(),
                       [](const Run* run) { return !run->diverged(); });
  });
  if (!some) throw DivergedError("every run diverged; see " + folder.file("metrics.csv"));
}

std::vector<double> over_seeds(const TunedCurve& curve,
                               const std::function<double(const Run&)>& number) {
  std::vector<double> values;
  for (const Run* run : curve.runs) values.push_back(number(*run));
  return values;
}

}  // namespace gradview
