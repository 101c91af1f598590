// How the weight-gradient part of a LoRA step with Adam grows: the slope of log time over log size,
// beside the slope of the multiply-adds that counting gives,
//
//     2 T r (m + n)  for δᵀ(x vᵀ) and (δ u)ᵀ x,    2 r m n  for W += du v + u dv.
#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "row.hpp"
#include "work.hpp"

namespace gradview::benchmarks {
namespace {

struct Size {
  std::size_t d, r, tokens;
  double multiply_adds() const {
    return 2.0 * static_cast<double>(r) * static_cast<double>(d) *
           static_cast<double>(2 * tokens + d);
  }
};

double slope(const std::vector<double>& x, const std::vector<double>& y) {
  double mean_x = 0, mean_y = 0, xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_x += std::log(x[i]) / static_cast<double>(x.size());
    mean_y += std::log(y[i]) / static_cast<double>(x.size());
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double dx = std::log(x[i]) - mean_x;
    xy += dx * (std::log(y[i]) - mean_y);
    xx += dx * dx;
  }
  return xy / xx;
}

struct Case {
  Case(const Size& size)
      : layer({size.d, size.d}, fmt::format("lora:rank={}", size.r), "adam"),
        gradient(Tokens(size.tokens, {size.d, size.d}).gradient()) {}
  Layer layer;
  Gradient gradient;
};

Row growth(const std::string& name, const Bench& bench, std::size_t Size::*what,
           const std::vector<Size>& sizes) {
  std::vector<std::unique_ptr<Case>> cases;
  std::vector<Contender> contenders;
  std::vector<double> x, counted;
  for (const Size& size : sizes) {
    cases.push_back(std::make_unique<Case>(size));
    contenders.push_back(
        contender(fmt::format("d = {}, r = {}, T = {}", size.d, size.r, size.tokens),
                  [one = cases.back().get()] { one->layer.step(one->gradient); }));
    x.push_back(static_cast<double>(size.*what));
    counted.push_back(size.multiply_adds());
  }
  const Race race(contenders, bench.slots);
  return {name, race.figure([&](const std::vector<double>& seconds) { return slope(x, seconds); }),
          "exponent", fmt::format("counting predicts {:.2f}; {}", slope(x, counted), race.note())};
}

}  // namespace

std::vector<Entry> growth_rows() {
  std::vector<Entry> rows;
  const auto add = [&](const std::string& name, std::size_t Size::*what,
                       const std::vector<Size>& sizes) {
    rows.push_back({name, [=](const Bench& bench) { return growth(name, bench, what, sizes); }});
  };
  // Ranks where the multiply-adds, not memory, set the time, and one kernel does them all.
  add("growth_m", &Size::d, {{512, 16, 512}, {1024, 16, 512}, {2048, 16, 512}, {4096, 16, 512}});
  add("growth_r", &Size::r,
      {{2048, 8, 2048}, {2048, 12, 2048}, {2048, 16, 2048}, {2048, 24, 2048}});
  add("growth_T", &Size::tokens,
      {{1024, 16, 512}, {1024, 16, 1024}, {1024, 16, 2048}, {1024, 16, 4096}});
  return rows;
}

}  // namespace gradview::benchmarks
