// One optimizer step of a linear layer, δ and x given: collect and step, without forward and
// backward.
//     build/bin/bench_step --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>

#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

void step(benchmark::State& state, const char* projector, const char* rule) {
  const auto size = static_cast<std::size_t>(state.range(0));
  const auto tokens = static_cast<std::size_t>(state.range(1));
  Matrix w = normal({size, size}, 0.03, {1, Purpose::test, "w"});
  const SharedMatrix delta = share(normal({tokens, size}, 1e-3, {1, Purpose::test, "delta"}));
  const SharedMatrix x = share(normal({tokens, size}, 1, {1, Purpose::test, "x"}));
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = 1e-4, .seed = 1});
  optimizer.add("w", w, make_projector(parse_spec(projector), Site{"w", w, 1}));
  for (auto _ : state) {
    optimizer.collect("w", Gradient::outer(delta, x));
    optimizer.step();
    benchmark::DoNotOptimize(w.data());
    benchmark::ClobberMemory();
  }
  state.counters["trained"] =
      static_cast<double>(count_numbers(parse_spec(projector), shape_of(w)).trained);
  state.counters["state_bytes"] = static_cast<double>(optimizer.state_bytes());
}

void layers(benchmark::internal::Benchmark* b) {
  b->Args({1024, 64})->Args({1024, 512})->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(step, full_sgd, "full", "sgd")->Apply(layers);
BENCHMARK_CAPTURE(step, full_adam, "full", "adam")->Apply(layers);
BENCHMARK_CAPTURE(step, lora8_sgd, "lora:rank=8", "sgd")->Apply(layers);
BENCHMARK_CAPTURE(step, lora8_adam, "lora:rank=8", "adam")->Apply(layers);
BENCHMARK_CAPTURE(step, random8_sgd, "random:rank=8", "sgd")->Apply(layers);
BENCHMARK_CAPTURE(step, additive_sgd, "additive", "sgd")->Apply(layers);

}  // namespace
}  // namespace gradview

BENCHMARK_MAIN();
