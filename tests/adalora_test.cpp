// AdaLoRA: its budget, its masks, its penalty, its errors, and PEFT's own schedules step by step.
#include "gradview/projections/adalora.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gradview/io/safetensors.hpp"
#include "gradview/models/linear.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<Real>::epsilon();

double figure(Optimizer& optimizer, const std::string& name, const std::string& key) {
  for (const auto& [each, value] : optimizer.projector(name).figures()) {
    if (each == key) return value;
  }
  throw std::invalid_argument("no figure '" + key + "'");
}

std::map<std::string, Matrix> state(Projector& projector) {
  std::map<std::string, Matrix> out;
  projector.fields(
      [&](std::string_view name, Matrix& value, Role) { out[std::string(name)] = value; });
  return out;
}

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// The schedule of methods.md E9: T = 100, tᵢ = 10, t_f = 20, b₀ = 12, b_T = 8.
constexpr BudgetPhases kTable{.warmup = 10, .final = 20, .every = 10, .steps = 100};

TEST(AdaLoraBudget, FallsFromTheInitialToTheTargetWithoutAJump) {
  EXPECT_EQ(kTable.budget(0, 12, 8), 12u);
  EXPECT_EQ(kTable.budget(10, 12, 8), 12u);
  EXPECT_EQ(kTable.budget(11, 12, 8), 11u);  // 8 + 4 (69/70)³ = 11.83
  EXPECT_EQ(kTable.budget(45, 12, 8), 8u);   // 8 + 4 / 8 = 8.5
  EXPECT_EQ(kTable.budget(80, 12, 8), 8u);
  EXPECT_EQ(kTable.budget(81, 12, 8), 8u);
  EXPECT_EQ(kTable.budget(99, 12, 8), 8u);
  // Continuous: with many triplets no step changes it by more than 3/70 of the way.
  for (std::size_t t = 1; t < 100; ++t) {
    const std::size_t before = kTable.budget(t - 1, 70000, 0), now = kTable.budget(t, 70000, 0);
    EXPECT_LE(now, before);
    EXPECT_LE(before - now, 3001u) << t;
  }
  // As the article prints it: 16.5 at t = tᵢ, more than there are.
  EXPECT_NEAR(8 + 4 * std::pow(1 - (10.0 - 10 - 20) / (100 - 10 - 20), 3), 16.5, 0.01);
}

TEST(AdaLoraBudget, MasksWhenTheCodesDo) {
  const auto masked = [](const BudgetPhases& p, bool forced) {
    std::string steps;
    for (std::size_t t = 0; t < p.steps; ++t) {
      if (p.masks(t, forced)) steps += std::to_string(t) + " ";
    }
    return steps;
  };
  const BudgetPhases p{.warmup = 4, .final = 3, .every = 4, .steps = 14};
  EXPECT_EQ(masked(p, true), "8 11 12 13 ");  // PEFT forces one at T − t_f
  EXPECT_EQ(masked(p, false), "8 12 13 ");    // the authors' code does not
  EXPECT_EQ(masked({.warmup = 0, .final = 0, .every = 1, .steps = 4}, true), "1 2 3 ");
}

TEST(AdaLoraBudget, PhasesThatAllowNoMaskAreSeen) {
  EXPECT_TRUE(kTable.fit());
  EXPECT_FALSE((BudgetPhases{.warmup = 60, .final = 40, .every = 1, .steps = 100}).fit());
  const auto ever = [](std::size_t warmup, std::size_t final, std::size_t every) {
    return BudgetPhases{.warmup = warmup, .final = final, .every = every, .steps = 20}.ever_mask();
  };
  EXPECT_TRUE(ever(10, 0, 19));
  EXPECT_FALSE(ever(10, 0, 20));
  EXPECT_FALSE(ever(10, 0, 10));
  EXPECT_TRUE(ever(10, 5, 1000));
}

std::string named(const std::vector<Triplet>& all) {
  std::string text;
  for (const Triplet& t : all) text += std::to_string(t.matrix) + std::to_string(t.component) + " ";
  return text;
}

TEST(AdaLoraBudget, TakesExactlyAsManyAsItSaysAlsoOfEquals) {
  std::vector<Triplet> all;
  for (std::size_t matrix = 0; matrix < 3; ++matrix) {
    for (std::size_t i = 0; i < 2; ++i) all.push_back({matrix, i, 0});
  }
  EXPECT_EQ(named(lowest(all, 0)), "");
  EXPECT_EQ(named(lowest(all, 3)), "21 11 01 ");  // one of each matrix
  EXPECT_EQ(named(lowest(all, 4)), "21 11 01 20 ");
  EXPECT_EQ(lowest(all, 6).size(), 6u);
  EXPECT_EQ(lowest(all, 9).size(), 6u);
  all[0].score = -1;
  all[3].score = 2;
  EXPECT_EQ(named(lowest(all, 4)), "00 21 01 20 ");
}

// Several matrices under adalora, each with a target that its gradient points away from.
class Several {
 public:
  Several(const std::string& spec, std::size_t steps, std::vector<Shape> shapes,
          const std::string& rule = "adam", double lr = 0.05)
      : optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = lr, .steps = steps}) {
    weights_.reserve(shapes.size());
    for (std::size_t k = 0; k < shapes.size(); ++k) {
      names.push_back("w" + std::to_string(k));
      weights_.push_back(draw(shapes[k], 2 * k));
      start_.push_back(weights_.back());
      targets.push_back(draw(shapes[k], 2 * k + 1));
      const Site site{.name = names[k], .weight = weights_[k], .seed = 5, .steps = steps};
      optimizer.add(names[k], weights_[k], make_projector(parse_spec(spec), site));
    }
  }
  static Matrix draw(Shape shape, std::size_t which) {
    return normal(shape, 0.5, Stream(3, Purpose::test, "adalora", which));
  }
  void step(const std::vector<double>& strength) {
    for (std::size_t k = 0; k < names.size(); ++k) {
      Matrix g = difference(weights_[k], targets[k]);
      scale(g, strength[k]);
      optimizer.collect(names[k], Gradient::dense(std::move(g)));
    }
    optimizer.step();
  }
  void step() { step(std::vector<double>(names.size(), 1)); }
  double total(const std::string& key) {
    double sum = 0;
    for (const std::string& name : names) sum += figure(optimizer, name, key);
    return sum;
  }
  double off_factors() {  // largest |W − W₀ − ΔW(θ)|
    double worst = 0;
    for (std::size_t k = 0; k < names.size(); ++k) {
      Projector& projector = optimizer.projector(names[k]);
      const Factors theta = projector.factors();
      for (std::size_t i = 0; i < weights_[k].shape()[0]; ++i) {
        for (std::size_t j = 0; j < weights_[k].shape()[1]; ++j) {
          const double change = weights_[k](i, j) - start_[k](i, j);
          worst = std::max(worst, std::abs(change - projector.entry(theta, start_[k], i, j)));
        }
      }
    }
    return worst;
  }
  std::vector<Matrix> weights() const { return weights_; }
  void restore(const std::vector<Matrix>& weights) {
    for (std::size_t k = 0; k < weights.size(); ++k) weights_[k] = weights[k];
  }

  Optimizer optimizer;
  std::vector<std::string> names;
  std::vector<Matrix> targets;

 private:
  std::vector<Matrix> weights_, start_;
};

const std::vector<Shape> kShapes{{6, 9}, {8, 5}, {7, 7}};

TEST(AdaLora, KeepsAsManyTripletsAsTheBudgetAllowsAndMovesWAlong) {
  const std::string spec = "adalora:rank=4,target=2,alpha=7,tinit=5,tfinal=8,deltaT=1";
  Several s(spec, 40, kShapes);
  const BudgetPhases phases{.warmup = 5, .final = 8, .every = 1, .steps = 40};
  for (std::size_t t = 0; t < 40; ++t) {
    s.step();
    const auto budget = static_cast<double>(phases.budget(t, 12, 6));
    EXPECT_EQ(s.total("rank"), budget) << t;
    EXPECT_EQ(s.total("live"), budget) << t;  // a mask at every step after the warm-up
    EXPECT_LT(s.off_factors(), 1e3 * kEps) << t;
  }
  EXPECT_EQ(s.total("rank"), 6);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto now = state(s.optimizer.projector(s.names[k]));
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(now.at("lambda")(i, 0) != 0, now.at("kept")(i, 0) == 1);
    }
  }
}

TEST(AdaLora, BetweenTwoMasksAMaskedTripletLives) {
  Several s("adalora:rank=4,target=2,tinit=0,tfinal=0,deltaT=5", 20, kShapes);
  for (std::size_t t = 0; t <= 10; ++t) s.step();
  EXPECT_EQ(s.total("live"), s.total("rank"));
  EXPECT_LT(s.total("rank"), 12);
  s.step();
  EXPECT_EQ(s.total("live"), 12);  // Adam moved all of them
  EXPECT_LT(s.total("rank"), 12);
}

TEST(AdaLora, ATripletThatMattersAgainReturns) {
  // First w0 has all the gradient, then w1 does: ranks leave the one and come back to the other.
  Several s("adalora:rank=4,budget=4,tinit=0,tfinal=20,deltaT=1,beta1=0.5,beta2=0.5", 120,
            {{8, 8}, {8, 8}});
  for (std::size_t t = 0; t < 50; ++t) s.step({1, 1e-3});
  EXPECT_EQ(s.total("rank"), 4);
  EXPECT_EQ(figure(s.optimizer, "w0", "rank"), 4);
  const double before = figure(s.optimizer, "w1", "returns");
  for (std::size_t t = 0; t < 40; ++t) s.step({1e-3, 1});
  EXPECT_EQ(figure(s.optimizer, "w1", "rank"), 4);
  EXPECT_GE(figure(s.optimizer, "w1", "returns"), before + 4);
  // From T − t_f on the choice is final, whatever the gradient says.
  for (std::size_t t = 90; t < 120; ++t) {
    s.step({t < 101 ? 1e-3 : 1, 1e-3});
    if (t < 100) continue;
    EXPECT_EQ(figure(s.optimizer, "w1", "rank"), 4) << t;
  }
}

TEST(AdaLora, WithoutAnyImportanceTheRanksStayEqual) {
  Several s("adalora:rank=4,target=2,tinit=0,tfinal=0.5,gamma=0", 20, kShapes, "sgd");
  for (std::size_t t = 0; t < 20; ++t) s.step({0, 0, 0});
  for (const std::string& name : s.names) EXPECT_EQ(figure(s.optimizer, name, "rank"), 2) << name;
}

TEST(AdaLora, AMatrixMayLoseAllItsRanks) {
  Several s("adalora:rank=3,budget=3,tinit=0,tfinal=0.3", 60, {{8, 8}, {8, 8}});
  for (std::size_t t = 0; t < 60; ++t) s.step({1, 1e-4});
  EXPECT_EQ(figure(s.optimizer, "w1", "rank"), 0);
  EXPECT_EQ(figure(s.optimizer, "w1", "live"), 0);
  const auto product = s.optimizer.projector("w1").product();
  EXPECT_EQ(squared_norm(matmul(product->u, product->v)), 0);
  EXPECT_LT(s.off_factors(), 1e3 * kEps);
}

TEST(AdaLora, SmallMatricesLowerTheBudgetThatThereIsToShare) {
  Several s("adalora:rank=4,target=3,tinit=0,tfinal=0.5", 20, {{2, 9}, {1, 5}, {8, 8}});
  for (std::size_t t = 0; t < 20; ++t) s.step();
  EXPECT_EQ(s.total("rank"), 7);  // 2 + 1 + 4, below 3 · 3: nothing to prune
  Several more("adalora:rank=4,budget=5,tinit=0,tfinal=0.5", 20, {{2, 9}, {1, 5}, {8, 8}});
  for (std::size_t t = 0; t < 20; ++t) more.step();
  EXPECT_EQ(more.total("rank"), 5);
}

TEST(AdaLora, ADivergedRunMasksNothing) {
  Several s("adalora:rank=4,target=2,tinit=0,tfinal=0.5", 20, kShapes, "sgd");
  s.targets[1](0, 0) = std::numeric_limits<Real>::infinity();
  for (std::size_t t = 0; t < 20; ++t) s.step();
  EXPECT_EQ(s.total("rank"), 12);
}

TEST(AdaLora, ResumesInAnyPhaseWithTheSameBits) {
  const std::string spec = "adalora:rank=4,target=2,alpha=7,tinit=3,tfinal=4,deltaT=2";
  for (const std::size_t stop : {2U, 6U, 15U, 17U}) {
    Several through(spec, 20, kShapes);
    for (std::size_t t = 0; t < stop; ++t) through.step();
    std::map<std::string, Matrix> saved;
    through.optimizer.fields([&](std::string_view name, Matrix& value, Role) {
      saved.emplace(std::string(name), value);
    });
    Several again(spec, 20, kShapes);
    again.restore(through.weights());
    again.optimizer.fields(
        [&](std::string_view name, Matrix& value, Role) { value = saved.at(std::string(name)); });
    for (std::size_t t = stop; t < 20; ++t) {
      through.step();
      again.step();
    }
    EXPECT_EQ(through.weights(), again.weights()) << stop;
    EXPECT_EQ(through.total("rank"), again.total("rank")) << stop;
  }
}

// The penalty by the article's formula: of one matrix, where `peers` matrices share it.
double penalty(const Factors& theta, bool squared, double gamma, double peers) {
  const auto excess = [](const Matrix& a, bool columns) {
    double sum = 0;
    const auto [rows, cols] = shape_of(a);
    const std::size_t r = columns ? cols : rows, d = columns ? rows : cols;
    for (std::size_t i = 0; i < r; ++i) {
      for (std::size_t k = 0; k < r; ++k) {
        double inner = i == k ? -1 : 0;
        for (std::size_t j = 0; j < d; ++j) {
          inner += columns ? a(j, i) * a(j, k) : a(i, j) * a(k, j);
        }
        sum += inner * inner;
      }
    }
    return sum;
  };
  const double left = excess(theta[0], true), right = excess(theta[2], false);
  return squared ? gamma * (left + right)
                 : gamma * (std::sqrt(left) + std::sqrt(right)) / (2 * peers);
}

TEST(AdaLoraPenalty, GradientIsThatOfTheFormula) {
  for (const bool squared : {false, true}) {
    const Matrix weight = Several::draw({6, 9}, 1);
    const std::string spec =
        std::string("adalora:rank=4,alpha=7,gamma=0.7,deviation=0.4,penalty=") +
        (squared ? "squared" : "norm");
    const Site site{.name = "w", .weight = weight, .steps = 100, .peers = 3};
    const auto projector = make_projector(parse_spec(spec), site);
    Factors g = projector->project(Gradient({6, 9}), weight);
    projector->penalize(g, site);
    const Factors theta = projector->factors();
    EXPECT_GT(squared_norm(g[0]), 1e-4);
    EXPECT_EQ(squared_norm(g[1]), 0);
    EXPECT_GT(squared_norm(g[2]), 1e-4);
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t i = 0; i < theta[k].size(); ++i) {
        const double h = 1e-5;  // truncation h² ≈ 1e-10, rounding ε/h ≈ 1e-11
        Factors up = theta, down = theta;
        up[k].data()[i] += h;
        down[k].data()[i] -= h;
        const double slope =
            (penalty(up, squared, 0.7, 3) - penalty(down, squared, 0.7, 3)) / (2 * h);
        EXPECT_NEAR(g[k].data()[i], slope, 1e-8);
      }
    }
    double shown = 0;
    for (const auto& [key, value] : projector->figures()) shown = key == "penalty" ? value : shown;
    EXPECT_NEAR(shown, penalty(theta, squared, 0.7, 1), 1e-13);
  }
}

TEST(AdaLoraPenalty, VanishesWithItsGradientAtOrthonormalFactors) {
  const Matrix weight = zeros({6, 9});
  const Site site{.name = "w", .weight = weight, .steps = 100};
  const auto projector = make_projector(parse_spec("adalora:rank=2,target=1,gamma=1"), site);
  projector->fields([](std::string_view name, Matrix& value, Role) {
    if (name == "u" || name == "v") {
      value = zeros(shape_of(value));
      value(0, 0) = value(1, 1) = 1;
    }
  });
  Factors g = projector->project(Gradient({6, 9}), weight);
  projector->penalize(g, site);
  for (const Matrix& factor : g) EXPECT_EQ(squared_norm(factor), 0);
}

TEST(AdaLoraPenalty, IsSharedByTheMatricesUnderAdaLoraAndNoOthers) {
  Matrix w0 = Several::draw({6, 9}, 1), w1 = Several::draw({8, 5}, 2), bias = zeros({1, 4});
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("sgd")), .lr = 0.1, .steps = 10});
  const auto add = [&](const char* name, Matrix& weight, const char* spec) {
    const Site site{.name = name, .weight = weight, .steps = 10};
    optimizer.add(name, weight, make_projector(parse_spec(spec), site));
  };
  add("w0", w0, "adalora:rank=3,gamma=0.8");
  add("bias", bias, "full");
  add("w1", w1, "adalora:rank=3,gamma=0.8");
  const Factors before = optimizer.projector("w0").factors();
  optimizer.collect("w0", Gradient(shape_of(w0)));
  optimizer.step();
  const Factors after = optimizer.projector("w0").factors();
  const double h = 1e-6;
  Factors up = before, down = before;
  up[0](2, 1) += h;
  down[0](2, 1) -= h;
  const double slope = (penalty(up, false, 0.8, 2) - penalty(down, false, 0.8, 2)) / (2 * h);
  EXPECT_NEAR(after[0](2, 1) - before[0](2, 1), -0.1 * slope, 1e-9);
}

TEST(AdaLoraPenalty, MakesTheFactorsOrthonormal) {
  Several with("adalora:rank=4,tinit=0.2,gamma=0.5", 300, kShapes, "adam", 0.01);
  Several without("adalora:rank=4,tinit=0.2,gamma=0", 300, kShapes, "adam", 0.01);
  const double start = with.total("orthogonality");
  for (std::size_t t = 0; t < 300; ++t) {
    with.step({1e-3, 1e-3, 1e-3});  // a task that is too weak to matter
    without.step({1e-3, 1e-3, 1e-3});
  }
  EXPECT_LT(with.total("orthogonality"), 0.2 * start);
  EXPECT_GT(without.total("orthogonality"), 0.5 * start);
  EXPECT_EQ(without.total("penalty"), 0);
}

TEST(AdaLora, ImportanceFollowsItsDefinition) {
  Importance importance({1, 2});
  importance.follow(matrix({{2, -1}}), matrix({{3, 0.5}}), 0.75, 0.5);
  EXPECT_EQ(importance.sensitivity, matrix({{1.5, 0.125}}));    // (1 − β₁) |θ g|
  EXPECT_EQ(importance.uncertainty, matrix({{2.25, 0.1875}}));  // (1 − β₂)|I − Ī|
  importance.follow(matrix({{1, 4}}), matrix({{-1, 0}}), 0.75, 0.5);
  EXPECT_EQ(importance.sensitivity, matrix({{1.375, 0.09375}}));
  EXPECT_EQ(importance.uncertainty, matrix({{1.3125, 0.140625}}));
  EXPECT_EQ(importance.mean_over_row(0), (1.375 * 1.3125 + 0.09375 * 0.140625) / 2);
  EXPECT_EQ(importance.mean_over_column(1), 0.09375 * 0.140625);
}

TEST(AdaLora, SaysWhatIsWrongWithItsOptions) {
  const Matrix weight = zeros({20, 20});
  const auto made = [&](const std::string& options, std::size_t steps = 100) {
    return refusal([&] {
      make_projector(parse_spec("adalora:" + options),
                     {.name = "w", .weight = weight, .steps = steps});
    });
  };
  const auto says = [&](const std::string& text, const std::string& needle) {
    EXPECT_NE(text.find(needle), text.npos) << text;
    EXPECT_EQ(text.find('\n'), text.npos);
  };
  says(made("rank=8,target=8"), "target=8 leaves nothing to prune of rank=8");
  says(made("rank=8,target=9"), "nothing to prune");
  says(made("rank=1"), "nothing to prune");
  says(made("rank=8,target=0.5"), "target");
  says(made("rank=8,budget=0"), "budget");
  says(made("rank=8,budget=7.5"), "whole number");
  says(made("rank=8,budget=7,target=2"), "give one of them");
  says(made("tinit=60,tfinal=40"), "tinit=60 and tfinal=40 leave none of the 100 steps");
  says(made("tinit=0.5,tfinal=0.5"), "tinit=50 and tfinal=50");
  says(made("tinit=1.5"), "tinit=1.5 is neither");
  says(made("tinit=0,tfinal=0,deltaT=100"), "deltaT=100 allows no mask");
  says(made("deltaT=0"), "deltaT");
  says(made("gamma=-1"), "gamma");
  says(made("beta1=1"), "beta1");
  says(made("variant=pefft"), "there are paper, official, peft");
  EXPECT_EQ(made("tinit=60,tfinal=40", 0), "");  // not known yet
  EXPECT_EQ(made("tinit=60,tfinal=39"), "");
}

TEST(AdaLora, SaysWhatIsWrongWithItsBudgetOnceItKnowsTheMatrices) {
  Several full("adalora:rank=4,budget=12", 20, kShapes);
  EXPECT_NE(refusal([&] { full.step(); }).find("of the 12 triplets of 3 matrices"),
            std::string::npos);
  Several unknown("adalora:rank=4", 0, kShapes);
  EXPECT_NE(refusal([&] { unknown.step(); }).find("need the number of steps"), std::string::npos);
  Matrix w0 = zeros({6, 9}), w1 = zeros({6, 9});
  Optimizer mixed({.spec = make_optimizer_spec(parse_spec("sgd")), .lr = 0.1, .steps = 10});
  mixed.add("w0", w0,
            make_projector(parse_spec("adalora:rank=3,tinit=1"),
                           {.name = "w0", .weight = w0, .steps = 10}));
  mixed.add("w1", w1,
            make_projector(parse_spec("adalora:rank=4,tinit=2"),
                           {.name = "w1", .weight = w1, .steps = 10}));
  EXPECT_NE(refusal([&] { mixed.step(); }).find("'w1' and 'w0' share one budget"),
            std::string::npos);
}

// PEFT 0.21 over whole schedules (tests/golden/peft_adalora.py).
const SafetensorsReader& recorded() {
  static const SafetensorsReader file(GRADVIEW_TESTS_DIR "/golden/peft_adalora.safetensors");
  return file;
}

Matrix recorded(const std::string& name) {
  const Tensor* tensor = recorded().find(name);
  if (!tensor) throw std::runtime_error(recorded().path() + ": no tensor '" + name + "'");
  return recorded().matrix(*tensor);
}

struct Case {
  std::string name, spec, optimizer;
  double lr, clip;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  std::istringstream lines(recorded().metadata().at("cases"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream columns(line);
    Case c;
    std::string clip;  // operator>> does not read "inf"
    columns >> c.name >> c.spec >> c.optimizer >> c.lr >> clip;
    c.clip = std::stod(clip);
    out.push_back(c);
  }
  return out;
}

// A step rounds by some 1e-16, and 28 of them amplify a change of the start up to 3400-fold
// (measured by perturbing it): 1e-16 · 3400 · √28. Scores are compared relative to themselves.
constexpr double kGolden = 2e-12;

struct Deviations {
  std::map<std::string, double> worst;
  void see(const std::string& what, double a, double b) {
    double& now = worst[what];
    const double d = std::abs(a - b) / std::max(1.0, std::abs(b));
    if (!(d <= now)) now = d;
  }
  void see_row(const std::string& what, const Matrix& a, const Matrix& rows, std::size_t row) {
    ASSERT_EQ(a.size(), rows.shape()[1]) << what;
    for (std::size_t i = 0; i < a.size(); ++i) see(what, a.data()[i], rows(row, i));
  }
};

Deviations replay(const Case& c) {
  const std::vector<std::string> names{"fc1", "fc2", "fc3"};
  const Matrix x = recorded("x"), y = recorded("y"), losses = recorded(c.name + ".loss");
  const Matrix penalties = recorded(c.name + ".penalty"), budgets = recorded(c.name + ".budget");
  const Matrix thresholds = recorded(c.name + ".threshold");
  const std::size_t steps = losses.shape()[1];
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(c.optimizer)),
                       .lr = c.lr,
                       .steps = steps,
                       .clip = c.clip});
  std::map<std::string, Matrix> weights, expected;
  for (const std::string& name : names) {
    Matrix& weight = weights[name] = recorded("start." + name);
    auto projector =
        make_projector(parse_spec(c.spec), {.name = name, .weight = weight, .steps = steps});
    for (const char* key : {"", ".u", ".lambda", ".v", ".score", ".kept"}) {
      expected[name + key] = recorded(c.name + "." + name + key);
    }
    projector->fields([&](std::string_view field, Matrix& value, Role role) {
      if (role == Role::frozen) return;
      const Matrix& rows = expected.at(name + "." + std::string(field));
      std::copy_n(rows.data(), value.size(), value.data());
    });
    optimizer.add(name, weight, std::move(projector));
  }
  Deviations out;
  for (std::size_t step = 0; step < steps; ++step) {
    const Matrix none1 = zeros({1, 6}), none2 = zeros({1, 5}), none3 = zeros({1, 7});
    const auto tanh_of = [](Matrix a) {
      for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] = std::tanh(a.data()[i]);
      return a;
    };
    const auto back = [](Matrix delta, const Matrix& h) {
      for (std::size_t i = 0; i < h.size(); ++i) delta.data()[i] *= 1 - h.data()[i] * h.data()[i];
      return delta;
    };
    const Matrix h1 = tanh_of(linear_forward(x, weights["fc1"], none1));
    const Matrix h2 = tanh_of(linear_forward(h1, weights["fc2"], none2));
    Matrix d3;
    out.see("loss", mean_squared_error(linear_forward(h2, weights["fc3"], none3), y, &d3),
            losses(0, step));
    const Matrix d2 = back(matmul(d3, weights["fc3"]), h2);
    const Matrix d1 = back(matmul(d2, weights["fc2"]), h1);
    double penalty_now = 0;
    for (const std::string& name : names) penalty_now += figure(optimizer, name, "penalty") / 3;
    out.see("penalty", penalty_now, penalties(0, step));
    optimizer.collect("fc1", Gradient::outer(share(d1), share(x)));
    optimizer.collect("fc2", Gradient::outer(share(d2), share(h1)));
    optimizer.collect("fc3", Gradient::outer(share(d3), share(h2)));
    optimizer.step();
    double kept = 0, threshold = 0;
    for (const std::string& name : names) {
      const auto& projector = dynamic_cast<const AdaLora&>(optimizer.projector(name));
      const auto now = state(optimizer.projector(name));
      out.see_row("W", weights[name], expected[name], step);
      for (const char* key : {"u", "lambda", "v"}) {
        out.see_row(key, now.at(key), expected[name + "." + key], step + 1);
      }
      if (budgets(0, step) < 0) continue;
      out.see_row("kept", now.at("kept"), expected[name + ".kept"], step);
      for (std::size_t i = 0; i < 4; ++i) {
        out.see("score", projector.score(i) / expected[name + ".score"](step, i), 1);
        kept += now.at("kept")(i, 0);
        if (now.at("kept")(i, 0) == 0) threshold = std::max(threshold, projector.score(i));
      }
    }
    if (budgets(0, step) < 0) continue;
    out.see("budget", kept, budgets(0, step));
    out.see("threshold", threshold / thresholds(0, step), 1);
  }
  return out;
}

TEST(AdaLoraGolden, FollowsPeftOverWholeSchedules) {
  ASSERT_EQ(cases().size(), 4u);
  for (const Case& c : cases()) {
    const Deviations seen = replay(c);
    for (const auto& [what, deviation] : seen.worst) {
      EXPECT_LE(deviation, what == "kept" || what == "budget" ? 0 : kGolden)
          << c.name << " " << what;
      std::ostringstream text;
      text << deviation;
      RecordProperty(c.name + "_" + what, text.str());
    }
    EXPECT_EQ(seen.worst.size(), 10u) << c.name;
  }
}

TEST(AdaLoraGolden, SeesSmallFaults) {
  const auto with = [](std::size_t which, const std::string& from, const std::string& to) {
    Case c = cases().at(which);
    const std::size_t at = c.spec.find(from);
    if (at == c.spec.npos) throw std::invalid_argument(from);
    c.spec.replace(at, from.size(), to);
    double worst = 0;
    for (const auto& [what, deviation] : replay(c).worst) worst = std::max(worst, deviation);
    return worst;
  };
  EXPECT_GT(with(0, "variant=peft", "variant=paper"), 1e-7);  // rank + 1e-5
  EXPECT_GT(with(0, "gamma=0.5", "gamma=0.500001"), 10 * kGolden);
  EXPECT_GT(with(1, "variant=peft", "variant=official"), 1e-3);  // no mask at T − t_f
  EXPECT_GT(with(2, "tinit=3", "tinit=2"), 1e-3);
  Case unclipped = cases().at(2);
  unclipped.clip *= 1 + 1e-7;
  EXPECT_GT(replay(unclipped).worst["W"], 10 * kGolden);
}

}  // namespace
}  // namespace gradview
