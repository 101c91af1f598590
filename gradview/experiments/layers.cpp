#include "gradview/experiments/layers.hpp"

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {
namespace {

const std::vector<std::string> kColumns{"method", "optimizer", "lr",  "seed",
                                        "step",   "parameter", "key", "value"};

}  // namespace

std::string layers_header() { return csv_line(kColumns); }

std::string layers_text(const Run& run) {
  std::string text;
  for (const LayerRow& row : run.layers) {
    text +=
        csv_line({run.curve.method, run.curve.optimizer, exact(run.lr), std::to_string(run.seed),
                  std::to_string(row.step), row.parameter, row.key, exact(row.value)});
  }
  return text;
}

std::map<RunId, std::vector<LayerRow>> read_layers(const std::string& path) {
  const CsvTable table = read_csv(path);
  if (table.header != kColumns) {
    throw DataError(path + ": its columns are not those of a layers.csv of this version");
  }
  std::map<RunId, std::vector<LayerRow>> runs;
  for (const auto& cells : table.rows) {
    const RunId id{cells[0], cells[1], parse_exact(cells[2]).value_or(0),
                   static_cast<std::uint64_t>(parse_integer(cells[3]).value_or(0))};
    runs[id].push_back({static_cast<std::size_t>(parse_integer(cells[4]).value_or(0)), cells[5],
                        cells[6], parse_exact(cells[7]).value_or(0)});
  }
  return runs;
}

}  // namespace gradview
