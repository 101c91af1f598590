#include "gradview/experiments/compare/comparison.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace gradview {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kNever = std::numeric_limits<double>::infinity();

double value(const Row* row, std::optional<double> Row::*field) {
  return row && row->*field ? *(row->*field) : kNaN;
}

std::vector<const Row*> rows_of(const Run& run, const std::string& split) {
  std::vector<const Row*> rows;
  for (const Row& row : run.rows) {
    if (row.split == split && !row.diverged) rows.push_back(&row);
  }
  return rows;
}

// The step at which the validation accuracy first reaches the target, between logged steps by a
// straight line.
double steps_to(const Run& run, double target) {
  const auto rows = rows_of(run, "validation");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double now = *rows[i]->accuracy;
    if (!(now >= target)) continue;
    const auto step = static_cast<double>(rows[i]->step);
    if (i == 0) return step;
    const double before = *rows[i - 1]->accuracy;
    const auto earlier = static_cast<double>(rows[i - 1]->step);
    return earlier + (step - earlier) * (target - before) / (now - before);
  }
  return kNever;
}

struct Old {
  double accuracy = kNaN, loss = kNaN;
};

// The most of the old task that is left at a logged step where the new task's accuracy is at least
// `level`.
Old old_at(const Run& run, double level) {
  const auto now = rows_of(run, "validation");
  const auto old = rows_of(run, "old");
  Old best;
  for (std::size_t i = 0; i < std::min(now.size(), old.size()); ++i) {
    if (!(*now[i]->accuracy >= level)) continue;
    if (std::isnan(best.accuracy) || *old[i]->accuracy > best.accuracy) {
      best = {*old[i]->accuracy, *old[i]->loss};
    }
  }
  return best;
}

using BySeed = std::map<std::uint64_t, std::vector<const Run*>>;

// The runs of the seeds under which the most learning rates were run.
BySeed swept(const Evidence& evidence) {
  BySeed runs;
  for (const Run* run : evidence.all) runs[run->seed].push_back(run);
  std::size_t most = 0;
  for (const auto& [seed, list] : runs) most = std::max(most, list.size());
  std::erase_if(runs, [&](const auto& entry) { return entry.second.size() < most; });
  return runs;
}

double highest(const std::vector<const Run*>& runs) {
  double best = 0;
  for (const Run* run : runs) {
    for (const Row* row : rows_of(*run, "validation")) best = std::max(best, *row->accuracy);
  }
  return best;
}

Old best_old(const std::vector<const Run*>& runs, double level) {
  Old best;
  for (const Run* run : runs) {
    const Old one = old_at(*run, level);
    if (std::isnan(best.accuracy) || one.accuracy > best.accuracy) best = one;
  }
  return best;
}

std::optional<Matched> match(const Evidence& one, const Evidence& reference) {
  const BySeed ours = swept(one);
  const BySeed theirs = swept(reference);
  Matched sum{0, 0, 0, 0, 0, 0};
  for (const auto& [seed, runs] : ours) {
    const auto other = theirs.find(seed);
    if (other == theirs.end()) continue;
    const double level = std::min(highest(runs), highest(other->second));
    const Old mine = best_old(runs, level);
    const Old full = best_old(other->second, level);
    if (std::isnan(mine.accuracy) || std::isnan(full.accuracy)) continue;
    sum.new_accuracy += level;
    sum.old_accuracy += mine.accuracy;
    sum.old_loss += mine.loss;
    sum.reference_old_accuracy += full.accuracy;
    sum.reference_old_loss += full.loss;
    ++sum.seeds;
  }
  if (sum.seeds == 0) return std::nullopt;
  const auto n = static_cast<double>(sum.seeds);
  for (double* each : {&sum.new_accuracy, &sum.old_accuracy, &sum.old_loss,
                       &sum.reference_old_accuracy, &sum.reference_old_loss}) {
    *each /= n;
  }
  return sum;
}

double mean_second_order(const Evidence& evidence) {
  double sum = 0;
  double count = 0;
  for (const Run* run : evidence.reported) {
    for (const Row& row : run->rows) {
      if (!row.second_order || std::isnan(*row.second_order)) continue;
      sum += *row.second_order;
      ++count;
    }
  }
  return count > 0 ? sum / count : kNaN;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? kNaN : sum / static_cast<double>(values.size());
}

// A diverged run did not learn: it counts with accuracy 0, so that it stays in the mean.
double accuracy_of(const Run& run) {
  return run.diverged() ? 0 : value(run.last("test"), &Row::accuracy);
}

std::vector<double> each(const std::vector<SeedResult>& seeds, double SeedResult::*field) {
  std::vector<double> values;
  for (const SeedResult& seed : seeds) values.push_back(seed.*field);
  return values;
}

double target_of(const Evidence& reference, double below) {
  std::vector<double> finals;
  for (const Run* run : reference.reported) {
    finals.push_back(run->diverged() ? 0 : value(run->last("validation"), &Row::accuracy));
  }
  return median(finals) - below;
}

Line line_of(const Evidence& one, const Evidence& reference, double target, bool is_reference) {
  Line line{};
  line.curve = one.curve;
  line.listed = one.listed.empty() ? one.curve.method : one.listed;
  line.lr = one.lr;
  for (std::size_t i = 0; i < one.reported.size(); ++i) {
    const Run& run = *one.reported[i];
    const double accuracy = accuracy_of(run);
    line.seeds.push_back({run.seed, accuracy, value(run.last("test"), &Row::loss),
                          accuracy - accuracy_of(*reference.reported[i]), steps_to(run, target),
                          value(run.last("old"), &Row::accuracy),
                          value(run.last("old"), &Row::loss)});
    line.diverged += run.diverged();
    line.trainable = run.rows.back().trainable;
    line.state_bytes = run.rows.back().state_bytes;
  }
  line.accuracy = t_interval(each(line.seeds, &SeedResult::accuracy));
  line.difference = t_interval(each(line.seeds, &SeedResult::difference));
  line.adjusted_p = is_reference ? kNaN : t_test(each(line.seeds, &SeedResult::difference));
  line.steps_to_target = median(each(line.seeds, &SeedResult::steps_to_target));
  line.predicted_ratio = one.predicted_ratio;
  line.step_seconds = one.step_seconds;
  line.seconds_to_target = line.steps_to_target * one.step_seconds;
  line.old_accuracy = mean(each(line.seeds, &SeedResult::old_accuracy));
  line.second_order = mean_second_order(one);
  if (!one.best_accuracy.empty()) line.best_accuracy = mean(one.best_accuracy);
  line.matched = match(one, reference);
  return line;
}

std::vector<Contrast> contrast(const std::vector<Line>& lines,
                               const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::vector<Contrast> out;
  for (const auto& pair : pairs) {
    for (const Line& one : lines) {
      if (one.listed != pair.first) continue;
      const auto other = std::find_if(lines.begin(), lines.end(), [&](const Line& line) {
        return line.listed == pair.second && line.curve.optimizer == one.curve.optimizer;
      });
      if (other == lines.end()) continue;
      std::vector<double> differences;
      for (std::size_t i = 0; i < one.seeds.size(); ++i) {
        differences.push_back(one.seeds[i].accuracy - other->seeds[i].accuracy);
      }
      out.push_back({one.curve.method, other->curve.method, one.curve.optimizer,
                     t_interval(differences), t_test(differences), ""});
    }
  }
  return out;
}

// Holm over all differences of the table, then the verdicts.
void judge(Table& table, const std::vector<bool>& is_reference, double margin) {
  std::vector<double> p_values;
  for (const Line& line : table.lines) p_values.push_back(line.adjusted_p);
  for (const Contrast& each : table.contrasts) p_values.push_back(each.adjusted_p);
  const std::vector<double> adjusted = holm(p_values);
  auto p = adjusted.begin();
  for (std::size_t i = 0; i < table.lines.size(); ++i) {
    Line& line = table.lines[i];
    line.adjusted_p = *p++;
    line.verdict =
        is_reference[i] ? "reference" : verdict(line.difference, line.adjusted_p, margin);
  }
  for (Contrast& each : table.contrasts) {
    each.adjusted_p = *p++;
    each.verdict = verdict(each.difference, each.adjusted_p, margin);
  }
}

}  // namespace

std::string state_group(std::size_t state_bytes, std::size_t full_adam_bytes) {
  const double share = static_cast<double>(state_bytes) / static_cast<double>(full_adam_bytes);
  if (share < 0.05) return "below 5 %";
  if (share < 0.25) return "5 to 25 %";
  return share < 1 ? "25 to 100 %" : "100 % or more";
}

Table compare(const std::vector<Evidence>& evidence,
              const std::vector<std::pair<std::string, std::string>>& contrasts, double margin,
              double below_reference) {
  Table table;
  std::map<std::string, const Evidence*> references;
  std::map<std::string, double> targets;
  for (const Evidence& one : evidence) {
    if (!references.emplace(one.curve.optimizer, &one).second) continue;
    targets[one.curve.optimizer] = target_of(one, below_reference);
    table.targets.emplace_back(one.curve.optimizer, targets[one.curve.optimizer]);
  }
  std::vector<bool> is_reference;
  std::map<std::string, double> reference_steps;
  for (const Evidence& one : evidence) {
    const std::string& optimizer = one.curve.optimizer;
    const Evidence& reference = *references.at(optimizer);
    is_reference.push_back(&reference == &one);
    Line line = line_of(one, reference, targets.at(optimizer), is_reference.back());
    if (is_reference.back()) reference_steps[optimizer] = line.steps_to_target;
    line.step_ratio = line.steps_to_target / reference_steps.at(optimizer);
    table.lines.push_back(std::move(line));
  }
  table.contrasts = contrast(table.lines, contrasts);
  judge(table, is_reference, margin);
  return table;
}

}  // namespace gradview
