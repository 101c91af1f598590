// The frame of every program: errors become one to three lines on stderr and an exit code, signals
// stop it cleanly.
//
//   0 ok · 1 internal · 2 usage · 3 input file · 4 every run diverged · 5 output · 6 checkpoint · 7
//   a check failed · 130, 143 interrupted
#pragma once

#include <functional>
#include <string>

namespace gradview {

// Runs `body` and returns the exit code; `body` returns 0 or one of its own.
int run_program(const std::string& name, const std::function<int()>& body);

struct Interrupted {
};  // thrown where work stops for a signal; a second signal ends the process at once
void stop_on_signals();  // from now on SIGINT and SIGTERM set the flag below
bool stop_requested();
void throw_if_stop_requested();

}  // namespace gradview
