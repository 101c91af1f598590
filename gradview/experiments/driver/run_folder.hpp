// The folder of one run: made before any work, refused where it exists, gone again if nothing came
// of it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "gradview/experiments/driver/flags.hpp"

namespace gradview {

struct FolderFlags {
  std::string option = "out", out = {};  // the name of the flag, and its value
  bool overwrite = false, resume = false;
  void declare(Flags& flags);
};

class RunFolder {
 public:
  // Makes `out`, or runs/<experiment>-<time> under the current directory. Throws IoError where it
  // exists without overwrite or resume, or cannot be written; CheckpointError where there is
  // nothing to resume.
  RunFolder(const std::string& experiment, const FolderFlags& flags);
  ~RunFolder();  // before the first row: removes what was made
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  bool resuming() const { return resuming_; }

  // Writes run.json and metadata.json. When resuming, throws std::invalid_argument where `options`
  // differ from the run.json that is there in more than what does not change results.
  void begin(const nlohmann::ordered_json& options, const nlohmann::ordered_json& metadata);
  void append_rows(const std::string& name,
                   const std::string& text);  // the folder stays from the first on
  void write(const std::string& name, const std::string& text);  // atomically

 private:
  std::string path_;
  bool made_ = false, resuming_ = false, keep_ = false, begun_ = false;
};

// What a later reader needs to make sense of the numbers: version, compiler, BLAS, CPU, git.
nlohmann::ordered_json machine_metadata(const std::string& experiment);

}  // namespace gradview
