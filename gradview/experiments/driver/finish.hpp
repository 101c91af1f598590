// The end of a run: its picture, summary.json, its result on stdout, and on stderr where it is.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "gradview/experiments/driver/run_folder.hpp"

namespace gradview {

// summary.json is the last file: {"status": "complete", …summary}. `print` writes the result.
void finish_run(RunFolder& folder, const nlohmann::ordered_json& summary, bool quiet,
                const std::function<void()>& print);

}  // namespace gradview
