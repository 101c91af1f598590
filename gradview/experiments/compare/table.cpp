#include "gradview/experiments/compare/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

std::string percent(double x, int digits = 2) {
  return std::isnan(x) ? "–" : fmt::format("{:.{}f}", 100 * x, digits);
}

std::string interval(const Interval& i, bool sign) {
  const std::string mean = sign ? fmt::format("{:+.2f}", 100 * i.mean) : percent(i.mean);
  return std::isnan(i.low) ? mean : fmt::format("{} ±{:.2f}", mean, 100 * (i.high - i.mean));
}

std::string number(double x, const char* format) {
  if (std::isnan(x)) return "–";
  if (std::isinf(x)) return "∞";
  return fmt::format(fmt::runtime(format), x);
}

std::string bytes(std::size_t n) {
  if (n < 10000) return fmt::format("{} B", n);
  return n < 10000000 ? fmt::format("{:.1f} kB", static_cast<double>(n) / 1e3)
                      : fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6);
}

std::size_t width(const std::string& text) {  // characters, not bytes
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

using Cells = std::vector<std::string>;

// Columns as wide as their widest cell; the first two to the left, the others to the right. A row of
// one cell is a heading.
std::string aligned(const std::vector<Cells>& rows) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const Cells& row : rows) {
    if (row.size() == 1) continue;
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string text;
  for (const Cells& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string gap(row.size() == 1 ? 0 : widths[i] - width(row[i]), ' ');
      text += (i == 0 ? "" : "  ") + (i < 2 ? row[i] + gap : gap + row[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += "\n";
  }
  return text;
}

std::string matched(const Line& line) {
  if (!line.matched || line.verdict == "reference") return "–";
  const Matched& m = *line.matched;
  return fmt::format("{} vs {} at {}", percent(m.old_accuracy, 1),
                     percent(m.reference_old_accuracy, 1), percent(m.new_accuracy, 1));
}

std::vector<const Line*> in_order(const Table& table, bool by_state) {
  std::vector<const Line*> lines;
  for (const Line& line : table.lines) lines.push_back(&line);
  if (by_state) {
    std::stable_sort(lines.begin(), lines.end(),
                     [](const Line* a, const Line* b) { return a->state_bytes < b->state_bytes; });
  }
  return lines;
}

}  // namespace

std::string table_text(const Table& table, double margin, bool by_state) {
  const bool optimum = std::any_of(table.lines.begin(), table.lines.end(),
                                   [](const Line& line) { return line.best_accuracy.has_value(); });
  std::vector<Cells> first{{"method", "optimizer", "lr", "test accuracy %", "difference", "verdict",
                            "steps to target", "ratio", "predicted", "s to target"}};
  std::vector<Cells> second{{"method", "optimizer", "old task at matched new %", "at the end*",
                             "trained", "state", "ms/step", "η² term", "diverged"}};
  if (optimum) first[0].push_back("best possible");
  std::string group;
  for (const Line* each : in_order(table, by_state)) {
    const Line& line = *each;
    const std::string its = by_state ? state_group(line.state_bytes, table.full_adam_bytes) : "";
    if (its != group) {
      group = its;
      for (auto* rows : {&first, &second}) rows->push_back({"— state " + group + " —"});
    }
    first.push_back({line.curve.method, line.curve.optimizer, number(line.lr, "{:.2g}"),
                     interval(line.accuracy, false),
                     line.verdict == "reference" ? "–" : interval(line.difference, true),
                     line.verdict, number(line.steps_to_target, "{:.0f}"),
                     number(line.step_ratio, "{:.1f}"),
                     line.predicted_ratio ? number(*line.predicted_ratio, "{:.0f}") : "–",
                     number(line.seconds_to_target, "{:.2f}")});
    if (optimum) first.back().push_back(line.best_accuracy ? percent(*line.best_accuracy) : "–");
    second.push_back(
        {line.curve.method, line.curve.optimizer, matched(line), percent(line.old_accuracy, 1),
         std::to_string(line.trainable), bytes(line.state_bytes),
         number(1e3 * line.step_seconds, "{:.2f}"), number(line.second_order, "{:.1e}"),
         line.diverged > 0 ? fmt::format("{} of {}", line.diverged, line.seeds.size()) : "–"});
  }
  std::string text = aligned(first) + "\n" + aligned(second) + "\n";
  if (!table.contrasts.empty()) {
    std::vector<Cells> third{
        {"method", "against its control", "optimizer", "difference", "verdict"}};
    for (const Contrast& each : table.contrasts) {
      third.push_back({each.method, each.control, each.optimizer, interval(each.difference, true),
                       each.verdict});
    }
    text += aligned(third) + "\n";
  }
  text += fmt::format(
      "difference: to the first method under the same optimizer, paired by seed, 95 % t interval; "
      "verdict after Holm over "
      "this table, margin ±{:.2g} points\n",
      100 * margin);
  if (by_state) {
    text += fmt::format(
        "state: as a share of the {} that Adam keeps for full-rank training of the same matrices\n",
        bytes(table.full_adam_bytes));
  }
  for (const auto& [optimizer, target] : table.targets) {
    text += fmt::format("target under {}: {} % validation accuracy\n", optimizer, percent(target));
  }
  text +=
      "predicted: what theory gives for the ratio of steps, 1 + relative variance of the step, on "
      "the largest matrix\n"
      "* old task at the end is confounded: the method that learnt least seems to forget least\n";
  return text;
}

std::string table_csv(const Table& table) {
  std::string text = csv_line({"method",
                               "optimizer",
                               "lr",
                               "seed",
                               "accuracy",
                               "accuracy_low",
                               "accuracy_high",
                               "difference",
                               "difference_low",
                               "difference_high",
                               "p_holm",
                               "verdict",
                               "steps_to_target",
                               "step_ratio",
                               "predicted_step_ratio",
                               "to_target_seconds",
                               "matched_new_accuracy",
                               "matched_old_accuracy",
                               "matched_old_loss",
                               "reference_old_accuracy",
                               "reference_old_loss",
                               "final_old_accuracy",
                               "trainable",
                               "state_bytes",
                               "step_seconds",
                               "second_order",
                               "best_accuracy",
                               "diverged",
                               "state_group"});
  const auto cell = [](double x) { return std::isnan(x) ? std::string() : exact(x); };
  const auto maybe = [&](const std::optional<double>& x) { return x ? cell(*x) : std::string(); };
  for (const Line& line : table.lines) {
    const std::string group = state_group(line.state_bytes, table.full_adam_bytes);
    const auto m = line.matched;
    const auto matched_cell = [&](double Matched::*field) {
      return m ? cell((*m).*field) : std::string();
    };
    text += csv_line({line.curve.method,
                      line.curve.optimizer,
                      exact(line.lr),
                      "all",
                      cell(line.accuracy.mean),
                      cell(line.accuracy.low),
                      cell(line.accuracy.high),
                      cell(line.difference.mean),
                      cell(line.difference.low),
                      cell(line.difference.high),
                      cell(line.adjusted_p),
                      line.verdict,
                      cell(line.steps_to_target),
                      cell(line.step_ratio),
                      maybe(line.predicted_ratio),
                      cell(line.seconds_to_target),
                      matched_cell(&Matched::new_accuracy),
                      matched_cell(&Matched::old_accuracy),
                      matched_cell(&Matched::old_loss),
                      matched_cell(&Matched::reference_old_accuracy),
                      matched_cell(&Matched::reference_old_loss),
                      cell(line.old_accuracy),
                      std::to_string(line.trainable),
                      std::to_string(line.state_bytes),
                      cell(line.step_seconds),
                      cell(line.second_order),
                      maybe(line.best_accuracy),
                      std::to_string(line.diverged),
                      group});
    for (const SeedResult& s : line.seeds) {
      text += csv_line({line.curve.method,
                        line.curve.optimizer,
                        exact(line.lr),
                        std::to_string(s.seed),
                        cell(s.accuracy),
                        "",
                        "",
                        cell(s.difference),
                        "",
                        "",
                        "",
                        "",
                        cell(s.steps_to_target),
                        "",
                        "",
                        "",
                        "",
                        "",
                        "",
                        "",
                        "",
                        cell(s.old_accuracy),
                        std::to_string(line.trainable),
                        std::to_string(line.state_bytes),
                        "",
                        "",
                        "",
                        "",
                        group});
    }
  }
  for (const Contrast& each : table.contrasts) {  // the control in the place of the seed
    text += csv_line({each.method,
                      each.optimizer,
                      "",
                      "against " + each.control,
                      "",
                      "",
                      "",
                      cell(each.difference.mean),
                      cell(each.difference.low),
                      cell(each.difference.high),
                      cell(each.adjusted_p),
                      each.verdict,
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      ""});
  }
  return text;
}

Candidate chosen_in_table(const std::string& folder, const std::vector<Curve>& alternatives) {
  const CsvTable table = read_csv(folder + "/table.csv");
  const std::size_t method = table.column("method");
  const std::size_t optimizer = table.column("optimizer");
  const std::size_t lr = table.column("lr");
  for (const auto& row : table.rows) {
    const Curve curve{row[method], row[optimizer]};
    if (std::find(alternatives.begin(), alternatives.end(), curve) == alternatives.end()) continue;
    if (const auto rate = parse_number(row[lr]); rate && *rate > 0) return {curve, *rate};
  }
  throw DataError(folder + "/table.csv: no learning rate for '" + alternatives.front().method +
                  "' under '" + alternatives.front().optimizer + "'" +
                  (alternatives.size() > 1 ? " or another value of its knob" : ""));
}

}  // namespace gradview
