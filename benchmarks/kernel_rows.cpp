// Rows of single kernels: the projection of a factored and of a dense gradient, the update of the
// weight, and Adam.
#include <fmt/format.h>

#include "limits.hpp"
#include "row.hpp"
#include "work.hpp"

namespace gradview::benchmarks {
namespace {

// δᵀ(x vᵀ), (δ u)ᵀ x against G = δᵀ x and our projection of it; G is written where it is read.
Row lazy(const std::string& name, const Bench& bench, std::size_t d, std::size_t tokens,
         std::size_t r) {
  const Tokens t(tokens, {d, d});
  const Matrix u = sample({d, r}, "u"), v = sample({r, d}, "v");
  const Gradient factored = t.gradient();
  Matrix g = zeros({d, d});
  Real* entries = g.data();
  const Gradient dense = Gradient::dense(std::move(g));
  const Race race({contender("factored", [&] { project(factored, u, v); }),
                   contender("G formed and projected",
                             [&] {
                               sgemm(bench.threads, 1, transposed(*t.delta), plain(*t.x), 0,
                                     entries);
                               project(dense, u, v);
                             })},
                  bench.slots);
  return speedup(name, race, 1, 0);
}

constexpr Shape kLarge{4096, 4096};

Row project_dense(const std::string& name, const Bench& bench, std::size_t r, bool to_the_limit) {
  Matrix entries = sample(kLarge, "g");
  const Operand g = plain(entries);
  const Gradient gradient = Gradient::dense(std::move(entries));
  const Matrix u = sample({kLarge.rows, r}, "u"), v = sample({r, kLarge.cols}, "v");
  Matrix gv = zeros({kLarge.rows, r}), ug = zeros({r, kLarge.cols});
  std::vector<Contender> contenders{contender("one pass", [&] { project(gradient, u, v); })};
  if (to_the_limit) {
    contenders.push_back(contender("reading G", [&] { read_pass(g.data, g.shape.size()); }));
  } else {
    contenders.push_back(contender("two sgemm", [&] {
      sgemm(bench.threads, 1, g, transposed(v), 0, gv.data());
      sgemm(bench.threads, 1, transposed(u), g, 0, ug.data());
    }));
  }
  const Race race(contenders, bench.slots);
  Row row = speedup(name, race, 1, 0);
  if (to_the_limit) row.unit = "fraction";
  return row;
}

Row update(const std::string& name, const Bench& bench, std::size_t r) {
  Matrix w = sample(kLarge, "w"), other = w;
  const Matrix u = sample({kLarge.rows, r}, "u"), v = sample({r, kLarge.cols}, "v");
  const Matrix du = sample({kLarge.rows, r}, "du", 1e-6), dv = sample({r, kLarge.cols}, "dv", 1e-6);
  Matrix u1 = u, v1 = v;
  axpy(u1, 1, du);
  axpy(v1, 1, dv);
  const Race race({contender("delta form", [&] { move_product(w, u, v1, du, dv); }),
                   contender("two sgemm",
                             [&] {
                               sgemm(bench.threads, 1, plain(u1), plain(v1), 1, other.data());
                               sgemm(bench.threads, -1, plain(u), plain(v), 1, other.data());
                             }),
                   contender("a pass in place", [&] { in_place_pass(other); })},
                  bench.slots);
  Row row = speedup(name, race, 1, 0);
  row.note += fmt::format("; {:.2f} of the speed of a pass in place", race.ratio(2, 0).median);
  return row;
}

Row adam(const std::string& name, const Bench& bench) {
  Layer layer(kLarge, "full", "adam");
  const Gradient g = Gradient::dense(sample(kLarge, "g"));
  AdamStream stream(kLarge);
  const Race race({contender("a step of full-rank Adam", [&] { layer.step(g); }),
                   contender("the 28-byte stream", [&] { stream.pass(); })},
                  bench.slots);
  Row row = speedup(name, race, 1, 0);
  row.unit = "fraction";
  return row;
}

}  // namespace

std::vector<Entry> kernel_rows() {
  std::vector<Entry> rows;
  const auto add = [&](const std::string& name, auto measure) {
    rows.push_back({name, [=](const Bench& bench) { return measure(name, bench); }});
  };
  add("lazy_768_T512_r4",
      [](const auto& name, const Bench& b) { return lazy(name, b, 768, 512, 4); });
  add("lazy_4096_T512_r16",
      [](const auto& name, const Bench& b) { return lazy(name, b, 4096, 512, 16); });
  for (const std::size_t r : {1, 8}) {
    add(fmt::format("project_4096_r{}", r),
        [=](const auto& name, const Bench& b) { return project_dense(name, b, r, false); });
  }
  add("project_read_fraction_r1",
      [](const auto& name, const Bench& b) { return project_dense(name, b, 1, true); });
  for (const std::size_t r : {1, 4, 8}) {
    add(fmt::format("update_4096_r{}", r),
        [=](const auto& name, const Bench& b) { return update(name, b, r); });
  }
  add("adam_stream_fraction", adam);
  return rows;
}

}  // namespace gradview::benchmarks
