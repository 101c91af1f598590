#include "gradview/experiments/driver/program.hpp"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <new>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/experiments/driver/flags.hpp"

namespace gradview {
namespace {

volatile std::sig_atomic_t g_signal = 0;

void note_signal(int signal) {
  g_signal = signal;
  std::signal(signal, SIG_DFL);
}

int fail(const std::string& name, const std::string& message, int code) {
  fmt::print(stderr, "{}: error: {}\n", name, message);
  return code;
}

}  // namespace

void stop_on_signals() {
  std::signal(SIGINT, note_signal);
  std::signal(SIGTERM, note_signal);
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit fails with an error we can report
  std::signal(SIGPIPE, SIG_IGN);
}

bool stop_requested() { return g_signal != 0; }

void throw_if_stop_requested() {
  if (stop_requested()) throw Interrupted{};
}

int run_program(const std::string& name, const std::function<int()>& body) {
  stop_on_signals();
  try {
    const int code = body();
    if (std::fflush(stdout) != 0) return fail(name, "standard output cannot be written", 5);
    return code;
  } catch (const Finished&) {
    return std::fflush(stdout) == 0 ? 0 : 5;
  } catch (const Interrupted&) {
    return 128 + g_signal;
  } catch (const Error& error) {
    return fail(name, error.what(), error.exit_code);
  } catch (const std::invalid_argument& error) {
    return fail(name, error.what(), 2);
  } catch (const std::bad_alloc&) {
    return fail(name, "out of memory", 1);
  } catch (const std::exception& error) {
    return fail(name, std::string("internal: ") + error.what(), 1);
  }
}

}  // namespace gradview
