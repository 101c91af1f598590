// ReLoRA: restarts, and the schedule that goes with them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr Shape kShape{8, 7};

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "relora", which));
}

struct Trained {
  explicit Trained(const std::string& projector, const std::string& rule = "adam",
                   Schedule schedule = constant_schedule)
      : w(draw(kShape, 90)),
        optimizer({.spec = make_optimizer_spec(parse_spec(rule)),
                   .lr = 0.05,
                   .schedule = std::move(schedule),
                   .steps = 100,
                   .seed = 1}) {
    optimizer.add("w", w,
                  make_projector(parse_spec(projector), {.name = "w", .weight = w, .seed = 1}));
  }
  void step(std::size_t t) {
    optimizer.collect("w", Gradient::dense(draw(kShape, t)));
    optimizer.step();
  }
  Factors theta() { return optimizer.projector("w").factors(); }
  Matrix w;
  Optimizer optimizer;
};

bool zero(const Matrix& a) { return squared_norm(a) == 0; }

TEST(Relora, RestartsLeaveTheWeightAndGoOn) {
  Trained one("relora:rank=2,alpha=3,refresh_every=4");
  std::vector<Matrix> starts{one.theta()[1]};
  for (std::size_t t = 0; t < 12; ++t) {
    const Matrix before = one.w;
    one.optimizer.collect("w", Gradient::dense(draw(kShape, t)));
    EXPECT_EQ(one.w, before);
    const Factors theta = one.theta();
    EXPECT_EQ(zero(theta[0]), t % 4 == 0) << t;
    EXPECT_FALSE(zero(theta[1])) << t;
    if (t > 0 && t % 4 == 0) {
      for (const Matrix& start : starts) EXPECT_NE(theta[1], start);
      starts.push_back(theta[1]);
      const double bound = 1 / std::sqrt(7.0);
      for (std::size_t i = 0; i < theta[1].size(); ++i) {
        EXPECT_LE(std::abs(theta[1].data()[i]), bound);
      }
    }
    one.optimizer.step();
    EXPECT_NE(one.w, before) << "no learning after " << t << " steps";
  }
}

TEST(Relora, MovesTheWeightByMoreThanItsRank) {
  const auto rank = [](const std::string& spec) {
    Trained one(spec);
    const Matrix start = one.w;
    for (std::size_t t = 0; t < 12; ++t) one.step(t);
    const std::vector<double> values = svd(difference(one.w, start)).singular;
    return std::count_if(values.begin(), values.end(),
                         [&](double x) { return x > 1e-10 * values[0]; });
  };
  EXPECT_EQ(rank("relora:rank=2,refresh_every=12"), 2);
  EXPECT_EQ(rank("relora:rank=2,refresh_every=6"), 4);
  EXPECT_EQ(rank("relora:rank=2,refresh_every=4"), 6);
}

TEST(Relora, IsLoraUntilItRestarts) {
  Trained relora("relora:rank=2,alpha=3,refresh_every=6"), lora("lora:rank=2,alpha=3");
  for (std::size_t t = 0; t < 6; ++t) {
    relora.step(t);
    lora.step(t);
    EXPECT_EQ(relora.w, lora.w) << t;
  }
  relora.step(6);
  lora.step(6);
  EXPECT_NE(relora.w, lora.w);
}

// Reset by default: the first step after a restart is that of a new Adam, η sign(g) for u.
TEST(Relora, BeginsItsMomentsAnew) {
  for (const char* rule : {"adam:eps=1e-30", "adam:eps=1e-30,transport=keep"}) {
    Trained one("relora:rank=2,alpha=3,refresh_every=4", rule);
    for (std::size_t t = 0; t < 5; ++t) one.step(t);
    const Matrix u = one.theta()[0];
    double off = 0;
    for (std::size_t i = 0; i < u.size(); ++i) {
      off = std::max(off, std::abs(std::abs(u.data()[i]) - 0.05));
    }
    if (std::string(rule).ends_with("keep")) {
      EXPECT_GT(off, 1e-3);
    } else {
      EXPECT_LE(off, 10 * kEps);
    }
  }
}

// E‖m C‖² over frames v ~ U(±1/√n) before and after, for m = G vᵀ.
TEST(Relora, CarriedMomentsGrowByTheKnownFactor) {
  constexpr int kDraws = 4000;
  const Matrix g = draw(kShape, 1);
  double expected = 0, sum = 0, squares = 0;
  for (std::uint64_t seed = 1; seed <= kDraws; ++seed) {
    const auto projector = make_projector(parse_spec("relora:rank=3,refresh_every=2"),
                                          {.name = "w", .weight = g, .seed = seed});
    expected = projector->transfer_growth();
    Matrix m = matmul_nt(g, projector->factors()[1]);
    const double before = squared_norm(m);
    const Changes changes =
        projector->refresh(Gradient(kShape), {.name = "w", .weight = g, .seed = seed, .step = 2});
    Moments moments{1, std::move(m), {}, {}, {}};
    transport_moments(Transport::project, *changes.at(0), moments);
    const double off = squared_norm(moments.first) - expected * before;
    sum += off;
    squares += off * off;
  }
  const double mean = sum / kDraws;
  EXPECT_LE(std::abs(mean), 5 * std::sqrt((squares / kDraws - mean * mean) / kDraws));
}

TEST(Relora, RefusesToRestartEveryZeroSteps) {
  EXPECT_THROW(Trained("relora:refresh_every=0"), std::invalid_argument);
}

// Restarts at 40 and 80 of 100, each rising over four steps to where the curve is by then.
TEST(Schedule, RisesAnewAfterEveryRestart) {
  for (const std::string name : {"constant", "linear", "cosine"}) {
    const std::string tail = name == "constant" ? "" : ",final=0.1";
    const Schedule plain = make_schedule(name + ":warmup=3" + tail);
    const Schedule restarted =
        make_schedule(name + ":warmup=3,restart_every=40,restart_warmup=4" + tail);
    for (std::size_t t = 0; t < 100; ++t) {
      const std::size_t since = t % 40;
      const double factor = t >= 40 && since < 4 ? static_cast<double>(since + 1) / 5 : 1;
      EXPECT_NEAR(restarted(t, 100), factor * plain(t, 100), 10 * kEps) << name << " " << t;
    }
  }
}

TEST(Schedule, RefusesRestartsThatDoNotFit) {
  for (const char* spec :
       {"cosine:restart_every=10", "cosine:restart_warmup=3",
        "cosine:restart_every=10,restart_warmup=10",
        "constant:restart_every=10,restart_warmup=3,warmup=10", "linear:restart_every=-1"}) {
    EXPECT_THROW(make_schedule(spec), std::invalid_argument) << spec;
  }
  const char* fits = "cosine:restart_every=10,restart_warmup=3";
  EXPECT_THROW(require_schedule_fits(fits, 10), std::invalid_argument);
  EXPECT_NO_THROW(require_schedule_fits(fits, 11));
}

}  // namespace
}  // namespace gradview
