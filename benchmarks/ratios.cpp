// Everything about our speed that needs nobody else: ratios, fractions of the machine's limits,
// memory and growth, measured side by side in one process, as rows of results.json.
//     build/bin/bench_ratios --out results.json
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/flags.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/io/files.hpp"
#include "limits.hpp"
#include "row.hpp"

namespace gradview::benchmarks {
namespace {

using Json = nlohmann::ordered_json;

std::vector<Entry> all_rows() {
  std::vector<Entry> all;
  for (const auto& rows :
       {limit_rows(), kernel_rows(), step_rows(), block_rows(), memory_rows(), growth_rows()}) {
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

std::vector<Entry> chosen(const std::vector<std::string>& names) {
  std::vector<Entry> all = all_rows();
  if (names.empty()) return all;
  std::vector<std::string> choices;
  for (const Entry& entry : all) choices.push_back(entry.name);
  for (const std::string& name : names) {
    if (std::find(choices.begin(), choices.end(), name) == choices.end()) {
      throw std::invalid_argument("--only: no row '" + name + "'; there are " +
                                  join(choices, ", ") + did_you_mean(name, choices));
    }
  }
  std::erase_if(all, [&](const Entry& entry) {
    return std::find(names.begin(), names.end(), entry.name) == names.end();
  });
  return all;
}

Json to_json(const Row& row, const Bench& bench) {
  const std::size_t threads = row.threads > 0 ? row.threads : bench.threads;
  const std::string note = fmt::format("{}; {} thread{}, {}", row.note, threads,
                                       threads == 1 ? "" : "s", instruction_set());
  return {{"name", row.name},      {"ratio", row.figure.median}, {"median", row.figure.median},
          {"low", row.figure.low}, {"high", row.figure.high},    {"unit", row.unit},
          {"note", note}};
}

int ratios_main(int argc, char** argv) {
  Bench bench;
  std::vector<std::string> only;
  std::string out, peak_memory;
  Flags flags("bench_ratios", "speed against ourselves and against the machine's limits");
  flags.count("threads", bench.threads, {.least = 1, .most = 1024}, "threads of our pool");
  flags.flag("quick", bench.quick, "few and short slots");
  flags.list("only", only, "NAME", "rows to measure; without it all");
  flags.text("out", out, "FILE", "where the rows go as JSON, replaced if it is there");
  flags.text("peak-memory", peak_memory, "WHAT",
             "print the peak memory, in bytes, of base, full or lora, and end");
  flags.print("list", "", "print the names of all rows", [](const std::string&) {
    for (const Entry& entry : all_rows()) fmt::print("{}\n", entry.name);
  });
  flags.print("describe", "", "print what this program computes with, as JSON",
              [](const std::string&) {
                const Json words = {{"instruction set", instruction_set()},
                                    {"BLAS", blas_description()},
                                    {"compiler", "" __VERSION__}};
                fmt::print("{}\n", words.dump());
              });
  flags.parse(argc, argv);
  set_threads(bench.threads);
  if (!peak_memory.empty()) {
    fmt::print("{}\n", peak_memory_of(peak_memory));
    return 0;
  }
  if (bench.quick) bench.slots = {.seconds = 0.04, .rounds = 5, .retries = 5};

  const std::vector<Entry> entries = chosen(only);
  Json rows = Json::array();
  fmt::print("{:<32} {:>9}  {:<20} {}\n", "name", "figure", "95 % interval", "unit");
  for (const Entry& entry : entries) {
    const Row row = entry.measure(bench);
    const Figure& f = row.figure;
    fmt::print("{:<32} {:>9.3f}  {:<20} {}\n", row.name, f.median,
               fmt::format("[{:.3f}, {:.3f}]", f.low, f.high), row.unit);
    std::fflush(stdout);
    rows.push_back(to_json(row, bench));
    if (!out.empty()) write_atomically(out, rows.dump(1) + "\n");
  }
  return 0;
}

}  // namespace
}  // namespace gradview::benchmarks

int main(int argc, char** argv) {
  return gradview::run_program("bench_ratios",
                               [&] { return gradview::benchmarks::ratios_main(argc, argv); });
}
