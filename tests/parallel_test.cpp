// The pool: every block once, by whichever thread, and no thread that is late finds nothing to do it with.
#include "gradview/core/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace gradview {
namespace {

// More threads than cores, and blocks so short that a thread is often taken off its core between
// taking a block and working on it.
TEST(Parallel, EveryBlockIsDoneOnceWhateverThreadIsLate) {
  set_threads(16);
  for (std::size_t round = 0; round < 20000; ++round) {
    const std::size_t count = 2 + round % 30;
    std::vector<std::atomic<int>> done(count);
    parallel_blocks(count, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++done[i];
    });
    for (const std::atomic<int>& times : done) ASSERT_EQ(times, 1) << round;
  }
  set_threads(1);
}

}  // namespace
}  // namespace gradview
