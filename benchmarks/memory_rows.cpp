// Peak memory of a step beyond what any method holds, each in a process of its own.
//
//     base: W, x, δ, and δ W computed      full, lora: one step of Adam after that
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "row.hpp"
#include "work.hpp"

namespace gradview::benchmarks {
namespace {

double peak_of_child(const std::string& what) {
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length <= 0) throw std::runtime_error("this system does not say which program is running");
  const std::string command = fmt::format(
      "'{}' --peak-memory {}", std::string(self, static_cast<std::size_t>(length)), what);
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  char line[64] = {};
  if (!pipe || !std::fgets(line, sizeof line, pipe.get())) {
    throw std::runtime_error("the child process that measures memory said nothing");
  }
  return std::stod(line);
}

Row fraction(const Bench& bench) {
  std::vector<double> ratios, full, lora;
  double base = 0;
  for (std::size_t i = 0; i < (bench.quick ? 1 : 5); ++i) {
    base = peak_of_child("base");
    full.push_back(peak_of_child("full") - base);
    lora.push_back(peak_of_child("lora") - base);
    ratios.push_back(full.back() / lora.back());
  }
  constexpr double kMiB = 1024.0 * 1024.0;
  return {"rss_lazy_fraction", median_interval(ratios), "times",
          fmt::format("over the base of {:.1f} MiB: full Adam {:.1f} MiB, lora:rank=8 Adam {:.2f} "
                      "MiB; 4096 x 4096, T = 512",
                      base / kMiB, median_interval(full).median / kMiB,
                      median_interval(lora).median / kMiB)};
}

// Not ru_maxrss: that starts from the parent's.
std::size_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::size_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  throw std::runtime_error("this system does not say what a process's peak memory was");
}

}  // namespace

std::size_t peak_memory_of(const std::string& what) {
  constexpr Shape kShape{4096, 4096};
  const Tokens t(512, kShape);
  Matrix w = sample(kShape, "w", 0.03);
  const Matrix dx = matmul(*t.delta, w);
  if (what != "base") {
    Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam")), .lr = 1e-6, .seed = 1});
    optimizer.add(
        "w", w,
        make_projector(parse_spec(what == "full" ? "full" : "lora:rank=8"), Site{"w", w, 1}));
    optimizer.collect("w", t.gradient());
    optimizer.step();
  }
  return peak_bytes();
}

std::vector<Entry> memory_rows() { return {{"rss_lazy_fraction", fraction}}; }

}  // namespace gradview::benchmarks
