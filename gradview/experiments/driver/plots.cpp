#include "gradview/experiments/driver/plots.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

extern char** environ;

namespace gradview {
namespace {

std::string script() {
  for (const char* path : {GRADVIEW_PLOT_SCRIPT, GRADVIEW_PLOT_INSTALLED}) {
    if (std::filesystem::exists(path)) return path;
  }
  return {};
}

// The exit code of a command, −1 where it could not be started. What it prints is dropped if
// `quiet`.
int run(std::vector<std::string> words, bool quiet) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  if (quiet) posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int failed =
      posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (failed != 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The first python3 on the PATH need not be the one that matplotlib was installed for.
std::string python() {
  std::vector<std::string> candidates{"python3", "/usr/bin/python3"};
  if (const char* chosen = std::getenv("GRADVIEW_PYTHON"); chosen && *chosen) {
    candidates.insert(candidates.begin(), chosen);
  }
  for (const std::string& candidate : candidates) {
    if (run({candidate, "-c", "import matplotlib, pandas"}, true) == 0) return candidate;
  }
  return {};
}

}  // namespace

std::string draw_plots(const std::string& folder) {
  const std::string file = script();
  if (file.empty()) return "the plotting script plot.py is not where it was installed";
  const std::string interpreter = python();
  if (interpreter.empty()) {
    return "no python3 with matplotlib and pandas; install python3-matplotlib and python3-pandas, "
           "then "
           "scripts/plot " +
           folder;
  }
  return run({interpreter, file, folder}, false) == 0 ? ""
                                                      : "the plotting script failed on " + folder;
}

}  // namespace gradview
