// Rows of the whole training step of a block's linear layers.
#include "block.hpp"
#include "limits.hpp"
#include "row.hpp"

namespace gradview::benchmarks {
namespace {

constexpr std::size_t kWidth = 768;

Row lora_against_full(const std::string& name, const Bench& bench) {
  Block lora(kWidth, 512, "lora:rank=8", "adam"), full(kWidth, 512, "full", "adam");
  const Race race({contender("lora:rank=8 Adam", [&] { lora.step(); }),
                   contender("full Adam", [&] { full.step(); })},
                  bench.slots);
  return speedup(name, race, 1, 0);
}

Row random_sgd(const std::string& name, const Bench& bench) {
  Block random(kWidth, 512, "random:rank=1", "sgd"), full(kWidth, 512, "full", "sgd");
  const Race race({contender("random:rank=1 SGD", [&] { random.step(); }),
                   contender("full SGD", [&] { full.step(); })},
                  bench.slots);
  return speedup(name, race, 1, 0);
}

// y = x Wᵀ and dx = δ W of the six layers, nothing else, into ready outputs.
struct GemmsOnly {
  GemmsOnly(std::size_t threads_, std::size_t tokens)
      : threads(threads_), x(sample({tokens, kWidth}, "x")), f(sample({tokens, 4 * kWidth}, "f")) {
    for (const char* name : {"q", "k", "v", "o"}) square.push_back(sample({kWidth, kWidth}, name));
    up = sample({4 * kWidth, kWidth}, "up");
    down = sample({kWidth, 4 * kWidth}, "down");
    narrow = x;
    wide = f;
  }
  void run() {
    for (const Matrix& w : square) sgemm(threads, 1, plain(x), transposed(w), 0, narrow.data());
    sgemm(threads, 1, plain(x), transposed(up), 0, wide.data());
    sgemm(threads, 1, plain(f), transposed(down), 0, narrow.data());
    sgemm(threads, 1, plain(x), plain(down), 0, wide.data());
    sgemm(threads, 1, plain(f), plain(up), 0, narrow.data());
    for (const Matrix& w : square) sgemm(threads, 1, plain(x), plain(w), 0, narrow.data());
  }
  std::size_t threads;
  Matrix x, f, up, down, narrow, wide;
  std::vector<Matrix> square;
};

Row gemm_share(const std::string& name, const Bench& bench) {
  constexpr std::size_t kTokens = 2048;
  Block lora(kWidth, kTokens, "lora:rank=8", "adam");
  GemmsOnly gemms(bench.threads, kTokens);
  const Race race({contender("lora:rank=8 Adam", [&] { lora.step(); }),
                   contender("its GEMMs of forward and dX alone", [&] { gemms.run(); })},
                  bench.slots);
  Row row = speedup(name, race, 1, 0);
  row.unit = "fraction";
  return row;
}

}  // namespace

std::vector<Entry> block_rows() {
  std::vector<Entry> rows;
  const auto add = [&](const std::string& name, auto measure) {
    rows.push_back({name, [=](const Bench& bench) { return measure(name, bench); }});
  };
  add("random_sgd_whole_step", random_sgd);
  add("block_step_768_T512_lora8_full", lora_against_full);
  add("block_gemm_share_T2048", gemm_share);
  return rows;
}

}  // namespace gradview::benchmarks
