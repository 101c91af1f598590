// One line of results.json: a figure with its interval, and how it came about.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "paired.hpp"

namespace gradview::benchmarks {

struct Row {
  std::string name;
  Figure figure;
  std::string unit;  // "times", "fraction", "exponent", "GB/s" …
  std::string note;
  std::size_t threads = 0;  // that it was measured with; 0: the program's
};

struct Bench {  // how a row is to be measured
  Slots slots;
  std::size_t threads = 2;
  bool quick = false;
};

struct Entry {
  std::string name;
  std::function<Row(const Bench&)> measure;
};

// By subject, each in a file of its own.
std::vector<Entry> limit_rows();
std::vector<Entry> kernel_rows();
std::vector<Entry> step_rows();
std::vector<Entry> block_rows();
std::vector<Entry> memory_rows();
std::vector<Entry> growth_rows();

// Peak memory of this process, in bytes, after it did what `what` says (base, full, lora).
std::size_t peak_memory_of(const std::string& what);

inline Row speedup(std::string name, const Race& race, std::size_t slow, std::size_t fast) {
  return {std::move(name), race.ratio(slow, fast), "times", race.note()};
}

}  // namespace gradview::benchmarks
