// Threads inside one run: fixed blocks of rows over a small pool, so that the bits are those of one
// thread.
#pragma once

#include <cstddef>
#include <functional>

namespace gradview {

void set_threads(
    std::size_t threads);  // of the process; 1 at first. Not while a parallel_blocks is running.

// Calls work(begin, end) for [0, block), [block, 2 block) … up to count, on the pool where it is
// free, else here. The blocks must be independent: they run in any order. The first exception is
// rethrown.
void parallel_blocks(std::size_t count, std::size_t block,
                     const std::function<void(std::size_t, std::size_t)>& work);

// For entries that are each on their own: blocks that are worth handing out.
template <class Work>
void parallel_entries(std::size_t count, const Work& work) {
  parallel_blocks(count, std::size_t{1} << 15, work);
}

// Tiles of rows, work(begin, end): for what has no other form than m x n and is made a tile at a time.
template <class Work>
void parallel_tiles(std::size_t rows, const Work& work) {
  parallel_blocks(rows, 64, work);
}

}  // namespace gradview
