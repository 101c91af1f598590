#include "gradview/experiments/moments/moments_theory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kBeta = 0.9;

struct Sample {
  double mean, error;
};

Sample sample(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (n - 1) / n)};
}

std::string spec(const std::string& family, std::size_t rank) {
  return fmt::format("random:rank={},family={},sides=right", rank, family);
}

class Theory {
 public:
  explicit Theory(const TheorySettings& s)
      : s_(s), g_(normal({s.rows, s.cols}, 1, Stream(s.seed, Purpose::test, "g"))) {}

  // The average of heavy-ball momentum is that of Adam times 1/(1 − β₁).
  std::vector<TheoryCheck> lift(std::size_t rank) const {
    const std::size_t settled = 100;  // β₁^100 = 3e-5
    std::vector<double> along, energy;
    for (std::uint64_t i = 0; i < s_.samples / 20; ++i) {  // independent runs of a few steps each
      Matrix w = zeros(shape_of(g_));
      Optimizer optimizer = make("sgd:momentum=0.9,moments=factors,transport=keep",
                                 spec("gaussian", rank), w, s_.seed + i);
      Matrix before;
      for (std::size_t step = 0; step < settled; ++step) {
        if (step + 1 == settled) before = w;
        optimizer.collect("w", Gradient::dense(g_));
        optimizer.step();
      }
      Matrix moved = difference(before, w);
      scale(moved, 1 - kBeta);
      along.push_back(dot(moved, g_) / squared_norm(g_));
      energy.push_back(squared_norm(moved) / squared_norm(g_));
    }
    const double rest = (1 - kBeta) * (1 - kBeta);
    const double d = static_cast<double>(s_.cols), r = static_cast<double>(rank);
    const double noise = rest * ((d + r + 1) / r + kBeta * kBeta / (1 - kBeta * kBeta) * d / r);
    return {check("share of G in the lifted first moment", "gaussian", rank, along, 1 - kBeta),
            check("energy of the lifted first moment", "gaussian", rank, energy, noise)};
  }

  TheoryCheck second_moment(std::size_t rank) const {
    std::vector<double> ratios;
    for (std::uint64_t i = 0; i < s_.samples / 40; ++i) {
      Matrix w = zeros(shape_of(g_));
      Optimizer optimizer = make("adam:beta2=0.9,moments=factors,transport=keep",
                                 spec("gaussian", rank), w, s_.seed + i);
      for (int step = 0; step < 50; ++step) {
        optimizer.collect("w", Gradient::dense(g_));
        optimizer.step();
      }
      optimizer.fields([&](std::string_view name, Matrix& v, Role) {
        if (!name.ends_with(".second")) return;
        double sum = 0;
        for (std::size_t j = 0; j < s_.rows; ++j) {
          double row = 0, seen = 0;
          for (std::size_t k = 0; k < s_.cols; ++k) row += g_(j, k) * g_(j, k);
          for (std::size_t k = 0; k < rank; ++k) seen += v(j, k);
          sum += seen / row;
        }
        ratios.push_back(sum / static_cast<double>(s_.rows) / (1 - std::pow(0.9, 50)));
      });
    }
    return check("second moment over ‖G_j‖²/r", "gaussian", rank, ratios, 1);
  }

  // m₁ = G b₁ᵀ, as a fresh average is; then what one change of the frames makes of it.
  TheoryCheck transfer(const std::string& family, std::size_t rank, Transport how) const {
    std::vector<double> ratios, sizes;
    const Matrix w = zeros(shape_of(g_));
    double predicted = 0;
    for (std::uint64_t i = 0; i < s_.samples; ++i) {
      const auto projector = make_projector(parse_spec(spec(family, rank)), site(w, i, 0));
      projector->refresh(Gradient::dense(g_), site(w, i, 0));
      Moments m;
      m.first = projector->project(Gradient::dense(g_), w)[0];
      const double size = squared_norm(m.first) / squared_norm(g_);
      const Changes changes = projector->refresh(Gradient::dense(g_), site(w, i, 1));
      transport_moments(how, *changes[0], m);
      ratios.push_back(squared_norm(m.first) / squared_norm(g_));
      sizes.push_back(size);
      predicted = projector->transfer_growth();
    }
    if (how == Transport::rotate) {  // C = (r/n) b_old b_newᵀ: as for orthonormal frames
      predicted = static_cast<double>(rank) / static_cast<double>(s_.cols) * sample(sizes).mean;
      return check("E‖m‖² after transport=rotate", family, rank, ratios, predicted);
    }
    return check("growth of E‖m‖² in transport=project", family, rank, ratios, predicted);
  }

  // The optimizer's refusal: at the smallest κ with β₁^(2κ) growth < 1 it accepts, one below it
  // refuses. Measured is the smallest κ that it accepts.
  TheoryCheck threshold(const std::string& family, std::size_t rank) const {
    const Matrix w = zeros(shape_of(g_));
    const double growth =
        make_projector(parse_spec(spec(family, rank)), site(w, 0, 0))->transfer_growth();
    std::size_t accepted = 0;
    for (std::size_t every = 1; accepted == 0; ++every) {
      Matrix weight = w;
      try {
        make("adam:moments=factors,transport=project",
             fmt::format("{},refresh_every={}", spec(family, rank), every), weight, 1);
        accepted = every;
      } catch (const std::invalid_argument&) {
      }
    }
    const double bound = std::log(growth) / (-2 * std::log(kBeta));
    return {"smallest refresh interval of transport=project",
            family,
            rank,
            static_cast<double>(accepted),
            std::max(1.0, std::floor(bound) + 1),
            0};
  }

 private:
  static TheoryCheck check(std::string claim, std::string family, std::size_t rank,
                           const std::vector<double>& values, double predicted) {
    const Sample found = sample(values);
    return {std::move(claim), std::move(family), rank, found.mean, predicted, found.error};
  }
  Site site(const Matrix& w, std::uint64_t i, std::size_t step) const {
    return {.name = "w", .weight = w, .seed = s_.seed + i, .step = step};
  }
  static Optimizer make(const std::string& rule, const std::string& method, Matrix& w,
                        std::uint64_t seed) {
    Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = 1, .seed = seed});
    optimizer.add("w", w,
                  make_projector(parse_spec(method), Site{.name = "w", .weight = w, .seed = seed}));
    return optimizer;
  }

  TheorySettings s_;
  Matrix g_;
};

}  // namespace

bool TheoryCheck::holds() const {
  return std::abs(measured - predicted) <= 5 * standard_error + 1e-12 * (1 + std::abs(predicted));
}

std::vector<TheoryCheck> check_moments_theory(const TheorySettings& s) {
  const Theory theory(s);
  std::vector<std::function<std::vector<TheoryCheck>()>> parts;
  using Checks = std::vector<TheoryCheck>;
  for (const std::size_t rank : s.ranks) {
    parts.emplace_back([&theory, rank] { return theory.lift(rank); });
    parts.emplace_back([&theory, rank] { return Checks{theory.second_moment(rank)}; });
    for (const char* family : {"gaussian", "rademacher", "haar"}) {
      parts.emplace_back([&theory, family, rank] {
        return Checks{theory.transfer(family, rank, Transport::project),
                      theory.threshold(family, rank)};
      });
    }
    parts.emplace_back(
        [&theory, rank] { return Checks{theory.transfer("haar", rank, Transport::rotate)}; });
  }
  std::vector<Checks> found(parts.size());
  run_jobs(parts.size(), s.jobs, [&](std::size_t i) {
    throw_if_stop_requested();
    found[i] = parts[i]();
  });
  Checks all;
  for (const Checks& part : found) all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace gradview
