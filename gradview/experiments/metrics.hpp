// metrics.csv: one tidy row per (method, optimizer, lr, seed, step, split).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gradview {

struct Curve {  // what one line of a plot is about: two specs, as the user wrote them
  std::string method, optimizer;
  bool operator==(const Curve&) const = default;
};

struct Row {
  std::size_t step = 0;
  std::string split;  // train | validation | test | old
  std::optional<double> loss, accuracy, grad_norm, update_norm, gain, cosine;  // none: not measured
  std::size_t state_bytes = 0;
  double train_seconds = 0, wall_seconds = 0;
  bool diverged = false;
  std::size_t trainable = 0;
  double lr_used = 0;
  std::optional<double> second_order;
};

struct LayerRow {  // one number about one matrix; layers.hpp
  std::size_t step;
  std::string parameter, key;
  double value;
};

struct Run {
  Curve curve;
  double lr = 0;
  std::uint64_t seed = 0;
  std::vector<Row> rows;           // in order of step; the last one tells how the run ended
  std::vector<LayerRow> layers{};  // of a reported run, in order of step

  bool diverged() const { return !rows.empty() && rows.back().diverged; }
  const Row* last(const std::string& split) const;  // null where there is none
};

std::string metrics_header();
std::string metrics_text(const Run& run);  // the run's rows as CSV
// The runs of a metrics.csv, in order; a torn tail is left out. Throws DataError where the file is
// something else.
std::vector<Run> read_metrics(const std::string& path);

}  // namespace gradview
