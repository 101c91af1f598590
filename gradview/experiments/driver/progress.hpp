// Progress of many runs on stderr: one line that rewrites itself on a terminal, one a minute
// elsewhere.
#pragma once

#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>

namespace gradview {

class Progress {
 public:
  explicit Progress(bool quiet) : quiet_(quiet) {}
  ~Progress() { clear(); }

  void expect(std::size_t total);  // how many there will be, as far as is known now
  void skip(std::size_t count);    // done in an earlier call: not part of the rate
  void done(const std::string& what);
  void note(const std::string& text);  // a whole line that stays
  void clear();                        // takes the line away
  std::size_t finished() const { return finished_; }
  std::size_t total() const { return total_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool quiet_;
  std::size_t finished_ = 0, skipped_ = 0, total_ = 0;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = Clock::now();
  std::mutex mutex_;
};

}  // namespace gradview
