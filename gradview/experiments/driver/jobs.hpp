// Independent pieces of work on a few threads.
#pragma once

#include <cstddef>
#include <functional>

namespace gradview {

std::size_t cores();

// Calls work(0) … work(count − 1) on up to `jobs` threads, in order of start. The first exception
// ends the taking of new work and is rethrown when all threads are done.
void run_jobs(std::size_t count, std::size_t jobs, const std::function<void(std::size_t)>& work);

}  // namespace gradview
