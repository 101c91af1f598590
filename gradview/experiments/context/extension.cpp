#include "gradview/experiments/context/extension.hpp"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

namespace gradview {
namespace {

std::string shown(const Interval& i) {
  return std::isnan(i.low) ? fmt::format("{:.4f}", i.mean)
                           : fmt::format("{:.4f} [{:.4f}, {:.4f}]", i.mean, i.low, i.high);
}

// What the same model loses on the same bytes where it sees no more than the old length, per seed.
std::vector<double> gain_from_context(const Extended& curve) {
  std::vector<double> gains;
  for (std::size_t k = 0; k < curve.cut.size(); ++k) {
    gains.push_back(mean_of(curve.cut[k]) - mean_of(curve.buckets[k]));
  }
  return gains;
}

// Of the gap between LoRA and full fine-tuning, what training more closes.
std::string share_closed(const Extended& full, const Extended& lora, const Extended& more,
                         const Interval& gap) {
  if (!(gap.low > 0)) return "no gap whose interval lies above 0, so no share of it";
  std::vector<double> shares;
  for (std::size_t k = 0; k < full.loss.size(); ++k) {
    shares.push_back((lora.loss[k] - more.loss[k]) / (lora.loss[k] - full.loss[k]));
  }
  return "share of the gap closed " + shown(t_interval(shares));
}

}  // namespace

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> out;
  for (std::size_t k = 0; k < a.size(); ++k) out.push_back(a[k] - b[k]);
  return out;
}

std::string above(const Interval& interval, double than) {
  if (interval.low > than) return "holds";
  return interval.high < than ? "does not" : "undecided";
}

std::vector<ContextClaim> judge_context(const Extension& e, const std::vector<TimedLength>& times,
                                        double margin) {
  std::vector<ContextClaim> claims;
  const auto below = [](const Interval& i, double than) {
    return above({-i.mean, -i.high, -i.low}, -than);
  };
  const Extended& reference = e.curves[kEverywhere][kFull];
  const Interval gained = t_interval(gain_from_context(reference));
  claims.push_back(
      {"the extended model makes use of more than the old length", above(gained, 0),
       fmt::format("full fine-tuning on the same bytes, cut to {} less whole at {}: {}",
                   e.old_length, e.new_length, shown(gained))});
  for (const auto& ways : e.curves) {
    const std::string with = " (" + ways[kFull].attention + " attention)";
    const Interval gap = t_interval(differences(ways[kLora].loss, ways[kFull].loss));
    const Interval left = t_interval(differences(ways[kMore].loss, ways[kFull].loss));
    const std::string falls_short = above(gap, margin);
    claims.push_back({"LoRA alone falls short of full fine-tuning" + with, falls_short,
                      "LoRA − full " + shown(gap)});
    claims.push_back({"embeddings and norms beside it repair that" + with,
                      falls_short == "holds" ? below(left, margin) : "undecided",
                      fmt::format("LoRA + embeddings + norms − full {}; {}", shown(left),
                                  share_closed(ways[kFull], ways[kLora], ways[kMore], gap))});
  }
  for (std::size_t way = 0; way < kWays; ++way) {
    const Extended &sparse = e.curves[kInGroups][way], &full = e.curves[kEverywhere][way];
    const Interval cost = t_interval(differences(sparse.loss, full.loss));
    claims.push_back({"trained with sparse attention it is as good as with full: " + full.name,
                      below(cost, margin), "sparse − full " + shown(cost)});
  }
  if (!times.empty()) {
    const TimedLength& longest = times.back();
    const Interval ratio = longest.ratio();
    claims.push_back(
        {fmt::format("sparse attention makes a step at {} tokens faster", longest.length),
         below(ratio, 1), "seconds, sparse / full " + shown(ratio)});
  }
  const double cut = mean_of(e.cut);
  claims.push_back({fmt::format("extending beats cutting the text to {} bytes", e.old_length),
                    below(t_interval(reference.loss), cut),
                    fmt::format("full fine-tuning {}, no training and cut {:.4f}",
                                shown(t_interval(reference.loss)), cut)});
  return claims;
}

}  // namespace gradview
