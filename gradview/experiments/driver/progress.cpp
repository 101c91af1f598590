#include "gradview/experiments/driver/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace gradview {

void Progress::expect(std::size_t total) {
  const std::lock_guard lock(mutex_);
  total_ = total;
}

void Progress::skip(std::size_t count) {
  const std::lock_guard lock(mutex_);
  finished_ += count;
  skipped_ += count;
}

void Progress::done(const std::string& what) {
  const std::lock_guard lock(mutex_);
  ++finished_;
  if (quiet_) return;
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto now = Clock::now();
  const auto pause = terminal ? std::chrono::milliseconds(200) : std::chrono::milliseconds(60000);
  if (now - last_ < pause) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(finished_ - skipped_) / std::max(seconds, 1e-3);
  const std::size_t total = std::max(total_, finished_);
  const auto left =
      static_cast<long>(static_cast<double>(total - finished_) / std::max(rate, 1e-9));
  const std::string line = fmt::format(
      "{}/{} {:.0f}% | {:.1f}/s | ETA {:02}:{:02}:{:02} | {}", finished_, total,
      100.0 * static_cast<double>(finished_) / static_cast<double>(std::max<std::size_t>(total, 1)),
      rate, left / 3600, left / 60 % 60, left % 60, what);
  if (terminal) {
    fmt::print(stderr, "\r\x1b[K{}", line.substr(0, 110));
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
  shown_ = terminal;
}

void Progress::note(const std::string& text) {
  clear();
  if (!quiet_) fmt::print(stderr, "{}\n", text);
}

void Progress::clear() {
  const std::lock_guard lock(mutex_);
  if (shown_) fmt::print(stderr, "\r\x1b[K");
  shown_ = false;
}

}  // namespace gradview
