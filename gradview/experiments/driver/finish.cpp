#include "gradview/experiments/driver/finish.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "gradview/experiments/driver/plots.hpp"

namespace gradview {

void finish_run(RunFolder& folder, const nlohmann::ordered_json& summary, bool quiet,
                const std::function<void()>& print) {
  const std::string no_picture = draw_plots(folder.path());
  nlohmann::ordered_json whole{{"status", "complete"}};
  whole.update(summary);
  folder.write("summary.json", whole.dump(2) + "\n");
  print();
  std::fflush(stdout);
  if (quiet) return;
  if (!no_picture.empty()) fmt::print(stderr, "note: {}\n", no_picture);
  fmt::print(stderr, "run folder: {}\n", folder.path());
}

}  // namespace gradview
