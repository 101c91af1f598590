#include "gradview/experiments/metrics.hpp"

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

const std::vector<std::string> kColumns{"method",      "optimizer",     "lr",           "seed",
                                        "step",        "split",         "loss",         "accuracy",
                                        "grad_norm",   "update_norm",   "gain",         "cosine",
                                        "state_bytes", "train_seconds", "wall_seconds", "diverged",
                                        "trainable",   "lr_used",       "second_order"};

std::string cell(const std::optional<double>& value) { return value ? exact(*value) : ""; }

std::optional<double> number(const std::string& text) {
  return text.empty() ? std::nullopt : parse_exact(text);
}

}  // namespace

const Row* Run::last(const std::string& split) const {
  for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
    if (row->split == split) return &*row;
  }
  return nullptr;
}

std::string metrics_header() { return csv_line(kColumns); }

std::string metrics_text(const Run& run) {
  std::string text;
  for (const Row& row : run.rows) {
    text += csv_line({run.curve.method, run.curve.optimizer, exact(run.lr),
                      std::to_string(run.seed), std::to_string(row.step), row.split, cell(row.loss),
                      cell(row.accuracy), cell(row.grad_norm), cell(row.update_norm),
                      cell(row.gain), cell(row.cosine), std::to_string(row.state_bytes),
                      exact(row.train_seconds), exact(row.wall_seconds), row.diverged ? "1" : "0",
                      std::to_string(row.trainable), exact(row.lr_used), cell(row.second_order)});
  }
  return text;
}

std::vector<Run> read_metrics(const std::string& path) {
  const CsvTable table = read_csv(path);
  if (table.header != kColumns) {
    throw DataError(path + ": its columns are not those of a metrics.csv of this version");
  }
  std::vector<Run> runs;
  for (const auto& cells : table.rows) {
    const Curve curve{cells[0], cells[1]};
    const double lr = parse_exact(cells[2]).value_or(0);
    const auto seed = static_cast<std::uint64_t>(parse_integer(cells[3]).value_or(0));
    if (runs.empty() || !(runs.back().curve == curve) || runs.back().lr != lr ||
        runs.back().seed != seed) {
      runs.push_back({curve, lr, seed, {}});
    }
    const auto count = [&](std::size_t column) {
      return static_cast<std::size_t>(parse_integer(cells[column]).value_or(0));
    };
    runs.back().rows.push_back({.step = count(4),
                                .split = cells[5],
                                .loss = number(cells[6]),
                                .accuracy = number(cells[7]),
                                .grad_norm = number(cells[8]),
                                .update_norm = number(cells[9]),
                                .gain = number(cells[10]),
                                .cosine = number(cells[11]),
                                .state_bytes = count(12),
                                .train_seconds = number(cells[13]).value_or(0),
                                .wall_seconds = number(cells[14]).value_or(0),
                                .diverged = cells[15] == "1",
                                .trainable = count(16),
                                .lr_used = number(cells[17]).value_or(0),
                                .second_order = number(cells[18])});
  }
  return runs;
}

}  // namespace gradview
