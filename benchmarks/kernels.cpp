// Single kernels over sizes and ranks, for exploring; bench_ratios has what is compared.
//     build/bin/bench_kernels --benchmark_filter=project --benchmark_repetitions=5
// GRADVIEW_THREADS in the environment sets the threads of our pool (1 without it).
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <utility>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "work.hpp"

namespace gradview::benchmarks {
namespace {

std::size_t argument(const benchmark::State& state, std::size_t i) {
  return static_cast<std::size_t>(state.range(i));
}

// bytes: moved once at least by one call; multiply_adds: of one call.
void count(benchmark::State& state, double bytes, double multiply_adds) {
  using benchmark::Counter;
  state.counters["B/s"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  if (multiply_adds > 0)
    state.counters["flop/s"] = Counter(2 * multiply_adds, Counter::kIsIterationInvariantRate);
}

void project_dense(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  const std::size_t r = argument(state, 2);
  const Gradient g = Gradient::dense(sample(shape, "g"));
  const Matrix u = sample({shape.rows, r}, "u"), v = sample({r, shape.cols}, "v");
  for (auto _ : state) benchmark::DoNotOptimize(project(g, u, v));
  const auto entries = static_cast<double>(shape.size());
  count(state, sizeof(Real) * entries, 2 * static_cast<double>(r) * entries);
}

void project_factored(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  const std::size_t r = argument(state, 2), tokens = argument(state, 3);
  const Gradient g = Tokens(tokens, shape).gradient();
  const Matrix u = sample({shape.rows, r}, "u"), v = sample({r, shape.cols}, "v");
  for (auto _ : state) benchmark::DoNotOptimize(project(g, u, v));
  const auto entries = static_cast<double>(tokens * (shape.rows + shape.cols));
  count(state, sizeof(Real) * entries, 2 * static_cast<double>(r) * entries);
}

void update(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  const std::size_t r = argument(state, 2);
  Matrix w = sample(shape, "w");
  const Matrix u = sample({shape.rows, r}, "u"), v = sample({r, shape.cols}, "v");
  const Matrix du = sample({shape.rows, r}, "du", 1e-6), dv = sample({r, shape.cols}, "dv", 1e-6);
  for (auto _ : state) {
    move_product(w, u, v, du, dv);
    benchmark::ClobberMemory();
  }
  const auto entries = static_cast<double>(shape.size());
  count(state, 2 * sizeof(Real) * entries, 2 * static_cast<double>(r) * entries);
}

void folds(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  const Matrix g = sample(shape, "g");
  for (auto _ : state) {
    benchmark::DoNotOptimize(fold_columns(g, 1));
    benchmark::DoNotOptimize(fold_rows(g, 1));
  }
  count(state, sizeof(Real) * static_cast<double>(shape.size()), 0);
}

void unfolded(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  Matrix w = sample(shape, "w");
  const Matrix u = sample({shape.rows, 1}, "u", 1e-6), v = sample({1, shape.cols}, "v", 1e-6);
  for (auto _ : state) {
    add_unfolded(w, u, v);
    benchmark::ClobberMemory();
  }
  count(state, 2 * sizeof(Real) * static_cast<double>(shape.size()), 0);
}

void adam(benchmark::State& state) {
  const Shape shape{argument(state, 0), argument(state, 1)};
  Layer layer(shape, "full", "adam");
  const Gradient g = Gradient::dense(sample(shape, "g"));
  for (auto _ : state) layer.step(g);
  count(state, 7 * sizeof(Real) * static_cast<double>(shape.size()), 0);
}

void normals(benchmark::State& state) {
  const std::size_t size = argument(state, 0);
  for (auto _ : state) benchmark::DoNotOptimize(sample({1, size}, "numbers"));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void gemm(benchmark::State& state) {  // y = x Wᵀ of a layer
  const Shape shape{argument(state, 0), argument(state, 1)};
  const std::size_t tokens = argument(state, 2);
  const Matrix x = sample({tokens, shape.cols}, "x"), w = sample(shape, "w");
  for (auto _ : state) benchmark::DoNotOptimize(matmul_nt(x, w));
  count(state, sizeof(Real) * static_cast<double>(shape.size()),
        static_cast<double>(tokens) * static_cast<double>(shape.size()));
}

using Register = benchmark::internal::Benchmark;
constexpr std::pair<int, int> kShapes[] = {{768, 768}, {768, 3072}, {4096, 4096}};

void shapes(Register* b) {
  for (const auto& [m, n] : kShapes) b->Args({m, n});
}
void ranks(Register* b) {
  for (const auto& [m, n] : kShapes) {
    for (const int r : {1, 4, 8, 16, 32}) b->Args({m, n, r});
  }
}
void ranks_and_tokens(Register* b) {
  for (const auto& [m, n] : kShapes) {
    for (const int r : {1, 4, 16}) {
      for (const int tokens : {128, 512, 2048}) b->Args({m, n, r, tokens});
    }
  }
}
void layers(Register* b) {
  for (const auto& [m, n] : kShapes) {
    for (const int tokens : {128, 512, 2048}) b->Args({m, n, tokens});
  }
}

BENCHMARK(project_dense)->Apply(ranks)->UseRealTime();
BENCHMARK(project_factored)->Apply(ranks_and_tokens)->UseRealTime();
BENCHMARK(update)->Apply(ranks)->UseRealTime();
BENCHMARK(folds)->Apply(shapes)->UseRealTime();
BENCHMARK(unfolded)->Apply(shapes)->UseRealTime();
BENCHMARK(adam)->Apply(shapes)->UseRealTime();
BENCHMARK(normals)->Arg(8192)->Arg(1 << 20)->UseRealTime();
BENCHMARK(gemm)->Apply(layers)->UseRealTime();

}  // namespace
}  // namespace gradview::benchmarks

int main(int argc, char** argv) {
  if (const char* threads = std::getenv("GRADVIEW_THREADS")) {
    gradview::set_threads(std::strtoul(threads, nullptr, 10));
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
