#include "limits.hpp"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"
#include "row.hpp"

namespace gradview::benchmarks {
namespace {

Real sum_of(const Real* a, std::size_t count) {  // four sums hide the latency of an addition
  const std::size_t quarter = count / 4;
  Real s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (std::size_t i = 0; i < quarter; ++i) {
    s0 += a[i];
    s1 += a[quarter + i];
    s2 += a[2 * quarter + i];
    s3 += a[3 * quarter + i];
  }
  return s0 + s1 + s2 + s3;
}

template <class Work>
void over(std::size_t count, const Work& work) {
  parallel_blocks(count, std::size_t{1} << 18, work);
}

}  // namespace

std::string instruction_set() {
  const std::string isa = kernels().isa;
  if (isa == "x86_64_v4") return "AVX-512";
  if (isa == "x86_64_v3") return "AVX2";
  return isa == "x86_64" ? "SSE2" : isa;
}

void read_pass(const Real* a, std::size_t count) {
  over(count, [&](std::size_t begin, std::size_t end) {
    [[maybe_unused]] volatile Real sink = sum_of(a + begin, end - begin);
  });
}

void in_place_pass(Matrix& a) {
  over(a.size(), [&](std::size_t begin, std::size_t end) {
    Real* x = a.data();
    for (std::size_t i = begin; i < end; ++i) x[i] *= Real(1.0000001);
  });
}

AdamStream::AdamStream(Shape shape)
    : g(normal(shape, 1, {1, Purpose::test, "g"})),
      m(zeros(shape)),
      v(zeros(shape)),
      w(zeros(shape)) {}

void AdamStream::pass() {
  over(g.size(), [&](std::size_t begin, std::size_t end) {
    const Real* __restrict g_ = g.data();
    Real* __restrict m_ = m.data();
    Real* __restrict v_ = v.data();
    Real* __restrict w_ = w.data();
    for (std::size_t i = begin; i < end; ++i) {
      m_[i] = Real(0.9) * m_[i] + g_[i];
      v_[i] = Real(0.9) * v_[i] + g_[i];
      w_[i] = Real(0.9) * w_[i] + m_[i];
    }
  });
}

void sgemm(std::size_t threads, double alpha, Operand a, Operand b, double beta, Real* c) {
  const Shape sa = a.shape, sb = b.shape;
  const std::size_t m = a.transposed ? sa.cols : sa.rows;
  const std::size_t k = a.transposed ? sa.rows : sa.cols;
  const std::size_t n = b.transposed ? sb.rows : sb.cols;
  const bool by_rows = m >= n;
  const std::size_t longer = std::max(m, n);
  parallel_blocks(
      longer, (longer + threads - 1) / threads, [&](std::size_t begin, std::size_t end) {
        const Real* a_ = a.data;
        const Real* b_ = b.data;
        if (by_rows) {
          a_ += a.transposed ? begin : begin * sa.cols;
        } else {
          b_ += b.transposed ? begin * sb.cols : begin;
        }
        const auto size = [](std::size_t count) { return static_cast<int>(count); };
#ifdef GRADVIEW_DOUBLE
        cblas_dgemm(
#else
    cblas_sgemm(
#endif
            CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
            b.transposed ? CblasTrans : CblasNoTrans, size(by_rows ? end - begin : m),
            size(by_rows ? n : end - begin), size(k), static_cast<Real>(alpha), a_, size(sa.cols),
            b_, size(sb.cols), static_cast<Real>(beta), c + (by_rows ? begin * n : begin), size(n));
      });
}

namespace {

// A rate: what one call moves or computes, over its seconds.
Row rate(const std::string& name, const Bench& bench, std::size_t threads, double amount,
         const std::string& unit, Contender pass) {
  set_threads(threads);
  const Race race({std::move(pass)}, bench.slots);
  set_threads(bench.threads);
  const Figure figure =
      race.figure([&](const std::vector<double>& seconds) { return 1e-9 * amount / seconds[0]; });
  return {name, figure, unit, race.note(), threads};
}

constexpr Shape kLarge{4096, 4096};
constexpr double kEntries = 4096.0 * 4096.0;

Row read_limit(const std::string& name, const Bench& bench, std::size_t threads) {
  const Matrix a = normal(kLarge, 1, {1, Purpose::test, "a"});
  return rate(name, bench, threads, sizeof(Real) * kEntries, "GB/s",
              contender("read 4096 x 4096", [&] { read_pass(a.data(), a.size()); }));
}

Row in_place_limit(const std::string& name, const Bench& bench, std::size_t threads) {
  Matrix a = normal(kLarge, 1, {1, Purpose::test, "a"});
  return rate(name, bench, threads, 2 * sizeof(Real) * kEntries, "GB/s",
              contender("scale 4096 x 4096 in place", [&] { in_place_pass(a); }));
}

Row adam_limit(const std::string& name, const Bench& bench, std::size_t threads) {
  AdamStream stream(kLarge);
  return rate(name, bench, threads, 7 * sizeof(Real) * kEntries, "GB/s",
              contender("four arrays of 4096 x 4096", [&] { stream.pass(); }));
}

Row gemm_limit(const std::string& name, const Bench& bench, std::size_t threads) {
  const Matrix a = normal({1024, 1024}, 1, {1, Purpose::test, "a"});
  const Matrix b = normal({1024, 1024}, 1, {1, Purpose::test, "b"});
  Matrix c = zeros({1024, 1024});
  return rate(
      name, bench, threads, 2 * 1024.0 * 1024.0 * 1024.0, "GF/s",
      contender("1024 x 1024 x 1024", [&] { sgemm(threads, 1, plain(a), plain(b), 0, c.data()); }));
}

}  // namespace

std::vector<Entry> limit_rows() {
  std::vector<Entry> rows;
  const auto add = [&](const std::string& name, auto measure) {
    for (const std::size_t threads : {1, 2}) {
      const std::string full = fmt::format("limit_{}_{}_threads", name, threads);
      rows.push_back({full, [=](const Bench& bench) { return measure(full, bench, threads); }});
    }
  };
  add("read", read_limit);
  add("in_place", in_place_limit);
  add("adam_stream", adam_limit);
  add("sgemm", gemm_limit);
  return rows;
}

}  // namespace gradview::benchmarks
