// Rows of the whole training step of a block's linear layers.
#include "block.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/models/activation.hpp"
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

// The same step as LinearBlocks has it, with W −= lr δᵀ x by one GEMM into each weight: full-rank
// SGD at its cheapest.
struct FullSgd {
  explicit FullSgd(std::size_t tokens)
      : weights(LinearBlocks{.width = kWidth, .hidden = 4 * kWidth, .layers = 1}.initial(1)),
        x(sample({tokens, kWidth}, "x")),
        delta(sample({tokens, kWidth}, "delta", 1e-3)) {}

  void step() {
    const auto w = [&](const char* name) -> Matrix& {
      return weights[std::string("block1.") + name + ".weight"];
    };
    Matrix a = matmul_nt(x, w("q"));
    for (const char* name : {"k", "v"}) add_matmul_nt(a, 1, x, w(name));
    scale(a, 1.0 / 3);
    Matrix z = copy_of(x);
    add_matmul_nt(z, 1, a, w("o"));
    Matrix f = matmul_nt(z, w("up"));
    activate(Activation::relu, f);
    Matrix y = copy_of(z);
    add_matmul_nt(y, 1, f, w("down"));
    Matrix df = matmul(delta, w("down"));
    times_derivative(Activation::relu, f, df);
    Matrix dz = copy_of(delta);
    add_matmul(dz, 1, df, w("up"));
    Matrix da = matmul(dz, w("o"));
    scale(da, 1.0 / 3);
    dx = copy_of(dz);
    for (const char* name : {"q", "k", "v"}) add_matmul(dx, 1, da, w(name));
    constexpr double kRate = 1e-6;
    add_matmul_tn(w("down"), -kRate, delta, f);
    add_matmul_tn(w("up"), -kRate, df, z);
    add_matmul_tn(w("o"), -kRate, dz, a);
    for (const char* name : {"q", "k", "v"}) add_matmul_tn(w(name), -kRate, da, x);
  }
  Weights weights;
  Matrix x, delta, dx;
};

Row random_sgd(const std::string& name, const Bench& bench) {
  Block random(kWidth, 512, "random:rank=1", "sgd");
  FullSgd full(512);
  const Race race({contender("random:rank=1 SGD", [&] { random.step(); }),
                   contender("full-rank SGD", [&] { full.step(); })},
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
