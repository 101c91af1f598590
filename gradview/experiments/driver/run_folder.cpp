#include "gradview/experiments/driver/run_folder.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "gradview/core/error.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
namespace {

// Options that may differ between a run and its continuation: none of them changes a result.
const std::set<std::string> kFree{"out",   "overwrite", "resume",     "jobs",    "quiet",
                                  "data",  "cache",     "group-by",   "threads", "save",
                                  "merge", "predict",   "save-every", "no-plot"};

bool is_run_folder(const fs::path& path) { return fs::exists(path / "run.json"); }

void remove_results(const fs::path& path) {
  for (const auto& entry : fs::directory_iterator(path)) {
    const auto extension = entry.path().extension();
    if (entry.is_regular_file() &&
        (extension == ".csv" || extension == ".json" || extension == ".png")) {
      fs::remove(entry.path());
    }
  }
}

void require_same_options(const std::string& file, const Json& now) {
  const Json then = Json::parse(read_text(file), nullptr, false);
  if (!then.is_object()) throw CheckpointError(file + " is damaged; it cannot be resumed");
  for (const auto& [name, value] : now.items()) {
    if (kFree.count(name) > 0) continue;
    const Json before = then.contains(name) ? then[name] : Json();
    if (before.dump() != value.dump()) {
      throw std::invalid_argument("--resume: --" + name + " was " + before.dump() + " and is now " +
                                  value.dump() + "; give the flags of the run that is resumed");
    }
  }
}

std::string first_line(const char* command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  char buffer[256];
  if (!pipe || !std::fgets(buffer, sizeof buffer, pipe.get())) return {};
  std::string line = buffer;
  line.erase(line.find_last_not_of("\r\n") + 1);
  return line;
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != line.npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

void FolderFlags::declare(Flags& flags) {
  flags.text(option, out, "DIR", "run folder; without it runs/<experiment>-<time>");
  flags.flag("overwrite", overwrite, "replace the results in an existing run folder");
  flags.flag("resume", resume, "go on with the run in --" + option + ", skipping what is finished");
}

RunFolder::RunFolder(const std::string& experiment, const FolderFlags& flags) {
  if (flags.overwrite && flags.resume) {
    throw std::invalid_argument("--overwrite and --resume contradict each other; give one of them");
  }
  if (flags.resume && flags.out.empty()) {
    throw std::invalid_argument("--resume needs the run folder, given with --" + flags.option +
                                " DIR");
  }
  path_ = flags.out;
  if (path_.empty()) {
    path_ = fmt::format("runs/{}-{:%Y%m%d-%H%M%S}", experiment, fmt::localtime(std::time(nullptr)));
  }
  std::error_code error;
  if (fs::exists(path_, error)) {
    const bool empty = fs::is_directory(path_, error) && fs::is_empty(path_, error);
    if (flags.resume) {
      if (!is_run_folder(path_)) {
        throw CheckpointError(path_ + " has no run.json; it cannot be resumed");
      }
      resuming_ = true;
      keep_ = true;
    } else if (!flags.overwrite) {
      throw IoError(path_ + " exists; give --overwrite, --resume or another --" + flags.option);
    } else if (!empty && !is_run_folder(path_)) {
      throw IoError(path_ + " is not a run folder (it has no run.json); it is not overwritten");
    }
  } else {
    if (flags.resume) throw CheckpointError(path_ + " does not exist; it cannot be resumed");
    fs::create_directories(path_, error);
    if (error) throw IoError(path_ + " cannot be made: " + error.message());
    made_ = true;
  }
  if (::access(path_.c_str(), W_OK | X_OK) != 0) throw IoError(path_ + " cannot be written");
}

RunFolder::~RunFolder() {
  if (keep_) return;
  std::error_code ignored;
  if (begun_) {
    for (const char* name : {"run.json", "metadata.json"}) fs::remove(file(name), ignored);
  }
  if (made_) fs::remove(path_, ignored);
}

void RunFolder::begin(const Json& options, const Json& metadata) {
  if (resuming_) {
    require_same_options(file("run.json"), options);
    return;
  }
  if (!made_) remove_results(path_);
  begun_ = true;
  write("run.json", options.dump(2) + "\n");
  write("metadata.json", metadata.dump(2) + "\n");
}

void RunFolder::append_rows(const std::string& name, const std::string& text) {
  append_whole(file(name), text);
  keep_ = true;
}

void RunFolder::write(const std::string& name, const std::string& text) {
  write_atomically(file(name), text);
}

Json machine_metadata(const std::string& experiment) {
  Json out;
  out["experiment"] = experiment;
  out["version"] = GRADVIEW_VERSION;
  out["real"] = sizeof(Real) == 4 ? "float" : "double";
  out["build"] = GRADVIEW_BUILD;
  out["compiler"] = __VERSION__;
  out["blas"] = blas_description();
  out["cpu"] = cpu_model();
  out["cores"] = std::thread::hardware_concurrency();
  const std::string commit = first_line("git rev-parse HEAD 2>/dev/null");
  if (!commit.empty()) {
    out["git"] = commit;
    out["git_clean"] = first_line("git status --porcelain 2>/dev/null").empty();
  }
  out["started"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  return out;
}

}  // namespace gradview
