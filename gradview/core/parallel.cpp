#include "gradview/core/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gradview {
namespace {

using Work = std::function<void(std::size_t, std::size_t)>;

class Pool {
 public:
  explicit Pool(std::size_t helpers) {
    for (std::size_t i = 0; i < helpers; ++i) {
      threads_.emplace_back([this](const std::stop_token& stop) { help(stop); });
    }
  }

  ~Pool() {
    for (std::jthread& thread : threads_) thread.request_stop();
    changed_.notify_all();
  }

  // One caller at a time; another that comes meanwhile is told to work alone.
  bool run(std::size_t count, std::size_t block, const Work& work) {
    const std::unique_lock turn(turn_, std::try_to_lock);
    if (!turn) return false;
    {
      const std::lock_guard lock(mutex_);
      work_ = &work;
      count_ = count;
      block_ = block;
      next_ = 0;
      failure_ = nullptr;
      ++round_;
    }
    if (sleeping_ > 0) changed_.notify_all();
    drain();
    spin_until([this] { return busy_ == 0; });
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
    work_ = nullptr;  // not before: a thread may have taken a block and not yet looked
    if (failure_) std::rethrow_exception(failure_);
    return true;
  }

 private:
  void help(const std::stop_token& stop) {
    std::uint64_t seen = 0;
    while (true) {
      spin_until([&] { return round_ != seen || stop.stop_requested(); });
      {
        std::unique_lock lock(mutex_);
        ++sleeping_;
        changed_.wait(lock, stop, [&] { return work_ != nullptr && round_ != seen; });
        --sleeping_;
        if (stop.stop_requested()) return;
        seen = round_;
        ++busy_;
      }
      drain();
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  // A step hands out work every few microseconds: looking for it a while costs less than sleep.
  template <class Condition>
  static void spin_until(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (!condition() && std::chrono::steady_clock::now() < end) {
    }
  }

  void drain() {
    for (std::size_t begin; (begin = next_.fetch_add(block_)) < count_;) {
      try {
        (*work_)(begin, std::min(begin + block_, count_));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }

  std::mutex turn_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::condition_variable idle_;
  const Work* work_ = nullptr;
  std::size_t count_ = 0, block_ = 1;
  std::atomic<std::size_t> busy_ = 0, sleeping_ = 0;  // both changed under the mutex
  std::atomic<std::uint64_t> round_ = 0;
  std::atomic<std::size_t> next_ = 0;
  std::exception_ptr failure_;
  std::vector<std::jthread> threads_;  // last: they stop before what they use goes
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance;
  return instance;
}

}  // namespace

void set_threads(std::size_t threads) {
  pool().reset();
  if (threads > 1) pool() = std::make_unique<Pool>(threads - 1);
}

void parallel_blocks(std::size_t count, std::size_t block, const Work& work) {
  if (count > block && pool() && pool()->run(count, block, work)) return;
  for (std::size_t begin = 0; begin < count; begin += block) {
    work(begin, std::min(begin + block, count));
  }
}

}  // namespace gradview
