// Rows of one layer's weight-gradient part, δ and x given: what a method makes of them until W has
// moved.
#include <fmt/format.h>

#include "limits.hpp"
#include "row.hpp"
#include "work.hpp"

namespace gradview::benchmarks {
namespace {

constexpr std::size_t kTokens = 512;

// Frames drawn, projected, W moved; against W −= lr δᵀ x by one GEMM.
Row random_sgd(const std::string& name, const Bench& bench, std::size_t d) {
  const Tokens t(kTokens, {d, d});
  const Gradient g = t.gradient();
  Layer random({d, d}, "random:rank=1", "sgd");
  Matrix w = random.weight;
  const Race race(
      {contender("random:rank=1", [&] { random.step(g); }),
       contender(
           "full-rank SGD",
           [&] { sgemm(bench.threads, -1e-6, transposed(*t.delta), plain(*t.x), 1, w.data()); })},
      bench.slots);
  return speedup(name, race, 1, 0);
}

Row additive(const std::string& name, const Bench& bench) {
  const auto race_at = [&](std::size_t d) {
    const Gradient g = Tokens(kTokens, {d, d}).gradient();
    Layer ours({d, d}, "additive", "sgd"), lora({d, d}, "lora:rank=1", "sgd");
    return Race({contender("additive", [&] { ours.step(g); }),
                 contender("lora:rank=1", [&] { lora.step(g); })},
                bench.slots);
  };
  const Race small = race_at(768), large = race_at(4096);
  Row row = speedup(name, small, 1, 0);
  row.note = fmt::format("768 x 768: {}; 4096 x 4096: {:.2f} times, {}", row.note,
                         large.ratio(1, 0).median, large.note());
  return row;
}

}  // namespace

std::vector<Entry> step_rows() {
  return {
      {"random_sgd_768_r1", [](const Bench& b) { return random_sgd("random_sgd_768_r1", b, 768); }},
      {"random_sgd_4096_r1",
       [](const Bench& b) { return random_sgd("random_sgd_4096_r1", b, 4096); }},
      {"additive_vs_lora_r1", [](const Bench& b) { return additive("additive_vs_lora_r1", b); }}};
}

}  // namespace gradview::benchmarks
