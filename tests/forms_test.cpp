// DoRA, VeRA, LoHa and LoKr: against PEFT's layers, and what each alone promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "gradview/io/safetensors.hpp"
#include "gradview/laws.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr double kEps = 2.3e-16;
constexpr std::uint64_t kSeed = 7;

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 0.5, Stream(kSeed, Purpose::test, "forms", which));
}

std::unique_ptr<Projector> make(const std::string& spec, const Matrix& w,
                                const std::string& name = "w") {
  return make_projector(parse_spec(spec), Site{.name = name, .weight = w, .seed = kSeed});
}

Matrix field(Projector& p, std::string_view wanted) {
  Matrix found;
  p.fields([&](std::string_view name, Matrix& value, Role) {
    if (name == wanted) found = value;
  });
  EXPECT_GT(found.size(), 0u) << wanted;
  return found;
}

void retract(Projector& p, const Factors& u, Matrix& w) {
  const Gradient none(shape_of(w));
  p.retract({none, u, u, 1}, &w);
}

// A random change of every factor, about `size` per entry.
Factors change(Projector& p, double size, std::size_t which = 10) {
  Factors u = p.factors();
  for (Matrix& factor : u) {
    factor = draw(shape_of(factor), which++);
    scale(factor, 2 * size);
  }
  return u;
}

double distance(const Matrix& a, const Matrix& b) {
  return std::sqrt(squared_norm(difference(a, b)));
}

// ---- against PEFT --------------------------------------------------------------------------------

struct Case {
  std::string name, projector, optimizer;
  double lr;
  std::string inputs;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const SafetensorsReader& recorded() {
  static const SafetensorsReader file(GRADVIEW_TESTS_DIR "/golden/peft_forms.safetensors");
  return file;
}

const Tensor* tensor(const std::string& name) { return recorded().find(name); }
Matrix recorded(const std::string& name) {
  if (!tensor(name)) throw std::runtime_error(recorded().path() + ": no tensor '" + name + "'");
  return recorded().matrix(*tensor(name));
}

std::vector<Case> cases() {
  std::vector<Case> cases;
  try {
    std::istringstream lines(recorded().metadata().at("cases"));
    for (std::string line; std::getline(lines, line);) {
      Case c;
      std::istringstream(line) >> c.name >> c.projector >> c.optimizer >> c.lr >> c.inputs;
      cases.push_back(c);
    }
  } catch (const std::exception&) {
  }
  return cases;  // PeftForms.CoverEveryMethod says what is missing
}

// Least squares with tanh(x w1ᵀ) w2ᵀ, as the recording has it.
class Replay {
 public:
  explicit Replay(const Case& c)
      : case_(c),
        prefix_(c.inputs == "plain" ? "" : c.inputs + "."),
        x_(recorded(prefix_ + "x")),
        optimizer_({.spec = make_optimizer_spec(parse_spec(c.optimizer)), .lr = c.lr}) {
    for (const char* name : {"fc1", "fc2"}) {
      Matrix& w = weights_[name] = recorded(prefix_ + "start." + name);
      auto projector = make(c.projector, w, name);
      projector->fields([&](std::string_view field, Matrix& value, Role) {
        const std::string key = name_of(name, field);
        if (!tensor(key)) return;
        const Matrix kept = recorded(key);
        ASSERT_EQ(kept.shape()[1], value.size()) << key;
        std::copy_n(kept.data(), value.size(), value.data());
        ++injected_;
      });
      optimizer_.add(name, w, std::move(projector));
    }
  }

  double run() {
    std::istringstream steps(recorded().metadata().at("kept"));
    std::vector<std::size_t> kept;
    for (std::size_t step; steps >> step;) kept.push_back(step);
    const Matrix losses = recorded(case_.name + ".loss");
    for (std::size_t step = 0; step < losses.size(); ++step) {
      const auto row = std::find(kept.begin(), kept.end(), step);
      if (row != kept.end()) compare(static_cast<std::size_t>(row - kept.begin()));
      see(collect(), losses(0, step));
      optimizer_.step();
    }
    EXPECT_GE(injected_, 4u) << "too few of the fields were recorded";
    return worst_;
  }

 private:
  std::string name_of(const std::string& weight, std::string_view field) const {
    return case_.name + "." + weight + "." + std::string(field);
  }
  void see(double a, double b) {
    const double off = std::abs(a - b) / std::max(1.0, std::abs(b));
    if (!(off <= worst_)) worst_ = off;
  }
  void see(const Matrix& a, const Matrix& rows, std::size_t row) {
    for (std::size_t i = 0; i < a.size(); ++i) see(a.data()[i], rows(row, i));
  }
  void compare(std::size_t row) {
    for (const auto& [name, w] : weights_) {
      see(w, recorded(case_.name + "." + name), row);
      const std::string& weight = name;
      optimizer_.projector(name).fields([&](std::string_view field, Matrix& value, Role) {
        const std::string key = name_of(weight, field);
        if (tensor(key)) see(value, recorded(key), row);
      });
    }
  }
  double collect() {
    Matrix h = matmul_nt(x_, weights_["fc1"]);
    for (std::size_t i = 0; i < h.size(); ++i) h.data()[i] = std::tanh(h.data()[i]);
    Matrix delta2 = difference(matmul_nt(h, weights_["fc2"]), y_);
    const double count = static_cast<double>(y_.shape()[0]);
    const double loss = squared_norm(delta2) / (2 * count);
    scale(delta2, 1 / count);
    Matrix delta1 = matmul(delta2, weights_["fc2"]);
    for (std::size_t i = 0; i < h.size(); ++i) delta1.data()[i] *= 1 - h.data()[i] * h.data()[i];
    optimizer_.collect("fc1", Gradient::outer(share(std::move(delta1)), share(x_)));
    optimizer_.collect("fc2", Gradient::outer(share(std::move(delta2)), share(std::move(h))));
    return loss;
  }

  Case case_;
  std::string prefix_;
  Matrix x_, y_ = recorded("y");
  std::map<std::string, Matrix> weights_;
  Optimizer optimizer_;
  std::size_t injected_ = 0;
  double worst_ = 0;
};

class PeftForms : public testing::TestWithParam<Case> {};

// 20 steps that round by some 1e-16, and Adam's first ones divide by gradients of 1e-3: 2e-12 at
// worst, were they all to add up.
constexpr double kTolerance = 1e-12;

TEST_P(PeftForms, TrainAsTheirFactorsDoUnderTorch) {
  const double worst = Replay(GetParam()).run();
  EXPECT_LE(worst, kTolerance);
  std::ostringstream deviation;
  deviation << worst;
  RecordProperty("deviation", deviation.str());
}

INSTANTIATE_TEST_SUITE_P(Golden, PeftForms, testing::ValuesIn(cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(PeftFormsFile, CoversEveryMethodWithEveryRule) {
  std::map<std::string, std::map<std::string, int>> seen;
  for (const Case& c : cases()) ++seen[parse_spec(c.projector).name][parse_spec(c.optimizer).name];
  for (const char* method : {"dora", "vera", "loha", "lokr"}) {
    for (const char* rule : {"sgd", "adam", "adamw"}) EXPECT_GT(seen[method][rule], 0) << method;
  }
}

TEST(PeftFormsFile, TellsTheTwoDoraGradientsApart) {
  double off = 0;
  for (Case c : cases()) {
    if (c.name != "dora_sgd") continue;
    c.projector = "dora:rank=3,alpha=5,norm=exact";
    off = Replay(c).run();
  }
  EXPECT_GT(off, 1e-3);
}

// ---- DoRA ----------------------------------------------------------------------------------------

constexpr Shape kShape{7, 9};

struct DoraAway {  // from its start, where u = 0 hides a term
  explicit DoraAway(const std::string& spec) : dora(make(spec, w)) {
    retract(*dora, change(*dora, 0.3), w);
  }
  Matrix start = draw(kShape, 1), w = start;
  std::unique_ptr<Projector> dora;
};

// Central differences of ⟨G, W(θ)⟩, with the norms of the rows of V as they are or held fixed.
TEST(Dora, BothGradientsAreThoseOfFiniteDifferences) {
  for (const bool detached : {false, true}) {
    DoraAway one(detached ? "dora:rank=3,alpha=5,norm=detached" : "dora:rank=3,alpha=5");
    const Matrix g = draw(kShape, 2);
    const Factors gradient = one.dora->project(Gradient::dense(g), one.w);
    const Matrix held = field(*one.dora, "norms");
    const auto value = [&](const Factors& theta) {
      Matrix v = one.start;
      add_matmul(v, 5.0 / 3, theta[0], theta[1]);
      double sum = 0;
      for (std::size_t i = 0; i < kShape.rows; ++i) {
        double along = 0, squares = 0;
        for (std::size_t j = 0; j < kShape.cols; ++j) {
          along += g(i, j) * v(i, j), squares += v(i, j) * v(i, j);
        }
        sum += theta[2](i, 0) * along / (detached ? double(held(i, 0)) : std::sqrt(squares));
      }
      return sum;
    };
    Factors theta = one.dora->factors();
    constexpr double kStep = 1e-5;
    for (std::size_t k = 0; k < theta.size(); ++k) {
      for (std::size_t e = 0; e < theta[k].size(); ++e) {
        Real& x = theta[k].data()[e];
        const Real here = x;
        x = here + kStep;
        const double above = value(theta);
        x = here - kStep;
        const double below = value(theta);
        x = here;
        // The third derivative leaves 1e-10 of order one, rounding 1e-16/1e-5.
        EXPECT_NEAR(gradient[k].data()[e], (above - below) / (2 * kStep), 1e-8) << detached << k;
      }
    }
  }
}

TEST(Dora, StartsAtTheWeightAndKeepsItsRowsAsLongAsItsMagnitudes) {
  DoraAway one("dora:rank=2,alpha=3");
  const Matrix magnitude = field(*one.dora, "magnitude");
  for (std::size_t i = 0; i < kShape.rows; ++i) {
    double squares = 0;
    for (std::size_t j = 0; j < kShape.cols; ++j) squares += one.w(i, j) * one.w(i, j);
    EXPECT_NEAR(std::sqrt(squares), std::abs(magnitude(i, 0)), 1e-14);
  }
}

TEST(Dora, MagnitudesCrossZeroAndReturn) {
  DoraAway one("dora:rank=2,alpha=3");
  const Matrix before = one.w;
  Factors u = one.dora->factors();
  for (std::size_t k = 0; k < 2; ++k) scale(u[k], 0);
  const Matrix magnitude = u[2];
  scale(u[2], -2);  // to the other side
  retract(*one.dora, u, one.w);
  Matrix flipped = before;
  scale(flipped, -1);
  EXPECT_LT(distance(one.w, flipped), 100 * kEps);
  scale(u[2], -0.5);  // onto zero, where the direction would be lost, and on
  retract(*one.dora, u, one.w);
  EXPECT_LT(std::sqrt(squared_norm(one.w)), 1e-18);
  retract(*one.dora, u, one.w);
  EXPECT_LT(distance(one.w, before), 100 * kEps);
}

TEST(Dora, LeavesRowsOfZerosAlone) {
  for (const char* spec : {"dora:rank=2,alpha=3", "dora:rank=2,alpha=3,norm=detached"}) {
    Matrix w = draw(kShape, 1);
    for (std::size_t j = 0; j < kShape.cols; ++j) w(3, j) = 0;
    Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adamw")), .lr = 0.01});
    auto dora = make(spec, w);
    EXPECT_EQ(dora->note(), "1 row of zeros stays zero");
    optimizer.add("w", w, std::move(dora));
    for (std::size_t step = 0; step < 5; ++step) {
      optimizer.collect("w", Gradient::dense(draw(kShape, 20 + step)));
      optimizer.step();
    }
    EXPECT_TRUE(all_finite(w));
    for (std::size_t j = 0; j < kShape.cols; ++j) EXPECT_EQ(w(3, j), 0);
    EXPECT_GT(distance(w, draw(kShape, 1)), 1e-3);
  }
}

TEST(Dora, RefusesADecayThatMovesTheWeightBesideIt) {
  Matrix w = draw(kShape, 1);
  Optimizer optimizer(
      {.spec = make_optimizer_spec(parse_spec("adamw:decay_on=weight")), .lr = 0.01});
  EXPECT_THROW(optimizer.add("w", w, make("dora:rank=2", w)), std::invalid_argument);
  EXPECT_NO_THROW(optimizer.add("w", w, make("lora:rank=2", w)));
}

// ---- VeRA ----------------------------------------------------------------------------------------

// One u and v for all: a matrix has the first rows and columns of any larger one's.
TEST(Vera, SlicesTheSameFramesForEveryMatrix) {
  const Matrix small = draw({5, 4}, 1), large = draw({9, 6}, 2);
  auto a = make("vera:rank=3", small, "one"), b = make("vera:rank=8", large, "another");
  const Matrix ua = field(*a, "u"), ub = field(*b, "u"), va = field(*a, "v"), vb = field(*b, "v");
  for (std::size_t k = 0; k < 3; ++k) {
    for (std::size_t i = 0; i < 5; ++i) {  // bounds √(6/r)
      EXPECT_NEAR(ua(i, k) * std::sqrt(3.0 / 8), ub(i, k), 4 * kEps);
    }
    for (std::size_t j = 0; j < 4; ++j) {  // bounds √(6/n)
      EXPECT_NEAR(va(k, j) * std::sqrt(4.0 / 6), vb(k, j), 4 * kEps);
    }
  }
}

TEST(Vera, StartsAsPeftDoes) {
  auto vera = make("vera", draw({6, 40}, 1));
  EXPECT_EQ(squared_norm(field(*vera, "b")), 0);
  const Matrix d = field(*vera, "d"), u = field(*vera, "u"), v = field(*vera, "v");
  EXPECT_EQ(d.size(), 256u);
  for (std::size_t k = 0; k < d.size(); ++k) EXPECT_EQ(d.data()[k], Real(0.1));
  // Uniform in ±b has variance b²/3, with a standard error of b² √(4/45/count).
  const auto variance = [](const Matrix& a, double b) {
    const double count = static_cast<double>(a.size());
    EXPECT_NEAR(squared_norm(a) / count, b * b / 3, 5 * b * b * std::sqrt(4 / 45.0 / count));
  };
  variance(u, std::sqrt(6 / 256.0));
  variance(v, std::sqrt(6 / 40.0));
}

// ---- LoHa ----------------------------------------------------------------------------------------

TEST(Loha, ReachesRankRSquaredAndNoMore) {
  for (const std::size_t r : {1U, 2U, 3U}) {
    auto loha = make("loha:alpha=2,rank=" + std::to_string(r), draw({14, 12}, 1));
    Matrix w = zeros({14, 12});
    retract(*loha, change(*loha, 0.5), w);
    const auto singular = svd(w).singular;
    EXPECT_GT(singular[r * r - 1], 1e-4 * singular[0]) << r;
    EXPECT_LT(singular[r * r], 100 * kEps * singular[0]) << r;
  }
}

// Both ways to the gradients: through G (v1 ⊙ v2)ᵀ where r² (m + n) < m n, through G itself beyond.
TEST(Loha, PullsAFactoredGradientAsADenseOne) {
  const Shape shape{24, 20};
  for (const char* spec : {"loha:rank=3,alpha=5", "loha:rank=4,alpha=5"}) {  // 396 and 704 of 480
    auto loha = make(spec, draw(shape, 1));
    Matrix w = zeros(shape);
    retract(*loha, change(*loha, 0.5), w);
    const Gradient g = Gradient::outer(share(draw({5, 24}, 3)), share(draw({5, 20}, 4)));
    const Factors thin = loha->project(g, w);
    const Factors dense = loha->project(Gradient::dense(g.materialize()), w);
    for (std::size_t k = 0; k < 4; ++k) {
      EXPECT_GT(squared_norm(dense[k]), 1e-4);
      EXPECT_LT(distance(thin[k], dense[k]), 1e-13) << k;
    }
  }
}

// ---- LoKr ----------------------------------------------------------------------------------------

TEST(Lokr, DividesAsPeftDoes) {
  const std::vector<std::pair<Shape, std::string>> cases{{{12, 10}, "3 x 2 ⊗ 4 x 5"},
                                                         {{128, 127}, "8 x 1 ⊗ 16 x 127"},
                                                         {{256, 784}, "16 x 28 ⊗ 16 x 28"},
                                                         {{10, 256}, "2 x 16 ⊗ 5 x 16"}};
  for (const auto& [shape, note] : cases) {
    EXPECT_EQ(make("lokr", zeros(shape))->note(), note);
  }
  EXPECT_EQ(make("lokr:factor=4", zeros({12, 128}))->note(), "4 x 4 ⊗ 3 x 32");
}

TEST(Lokr, SaysWhichFactorsDivide) {
  try {
    make("lokr:factor=4", zeros({12, 10}));
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "lokr: factor 4 does not divide both sides of 12 x 10; there are 1, 2, and 0 for "
                 "the nearest to the roots");
  }
}

// ΔW against c ⊗ b entry by entry, and the blocks' products against those of the dense gradient, on
// shapes whose sides all differ.
TEST(Lokr, IsAKroneckerProduct) {
  const Matrix c = draw({2, 3}, 1), b = draw({4, 5}, 2);
  Matrix w = zeros({8, 15});
  add_kronecker(w, 0.7, c, b);
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < 15; ++j) {
      EXPECT_NEAR(w(i, j), 0.7 * c(i / 4, j / 5) * b(i % 4, j % 5), 4 * kEps);
    }
  }
  Gradient g = Gradient::outer(share(draw({6, 8}, 3)), share(draw({6, 15}, 4)));
  g.add(Gradient::outer(share(draw({3, 8}, 5)), share(draw({3, 15}, 6))), -0.5);
  const Matrix dense = g.materialize();
  // ⟨G, c ⊗ b⟩ both ways
  EXPECT_NEAR(0.7 * dot(block_dots(g, b), c), dot(dense, w), 1e-13);
  EXPECT_NEAR(0.7 * dot(block_sum(g, c), b), dot(dense, w), 1e-13);
  EXPECT_LT(distance(block_dots(g, b), block_dots(dense, b)), 1e-13);
  EXPECT_LT(distance(block_sum(g, c), block_sum(dense, c)), 1e-13);
  EXPECT_LT(distance(row_dots(g, w), row_dots(dense, w)), 1e-13);
  EXPECT_THROW(block_dots(g, draw({3, 5}, 1)), std::invalid_argument);
  EXPECT_THROW(block_sum(g, draw({2, 2}, 1)), std::invalid_argument);
}

TEST(Lokr, PullsAFactoredGradientAsADenseOne) {
  const Shape shape{24, 30};  // 4 x 5 ⊗ 6 x 6: thin
  for (const char* spec : {"lokr:rank=2,alpha=5", "lokr:rank=1,alpha=3,decompose=both",
                           "lokr:rank=2,alpha=3,decompose=none"}) {
    auto lokr = make(spec, draw(shape, 1));
    Matrix w = zeros(shape);
    retract(*lokr, change(*lokr, 0.5), w);
    const Gradient g = Gradient::outer(share(draw({5, 24}, 3)), share(draw({5, 30}, 4)));
    const Factors thin = lokr->project(g, w);
    const Factors dense = lokr->project(Gradient::dense(g.materialize()), w);
    for (std::size_t k = 0; k < thin.size(); ++k) {
      EXPECT_GT(squared_norm(dense[k]), 1e-4);
      EXPECT_LT(distance(thin[k], dense[k]), 1e-13) << spec << k;
    }
  }
}

// ---- all -----------------------------------------------------------------------------------------

TEST(Forms, RefuseWhatNoMatrixHolds) {
  const Matrix w = draw(kShape, 1);
  for (const char* spec : {"vera:rank=0", "vera:rank=10000000", "vera:alpha=3", "vera:d_initial=0",
                           "dora:rank=0", "dora:norm=none", "loha:rank=0", "loha:init=zero",
                           "lokr:rank=0", "lokr:factor=-1", "lokr:decompose=all"}) {
    EXPECT_THROW(make(spec, w), std::invalid_argument) << spec;
  }
  // A rank above min(m, n) is capped where it means a product of two matrices.
  EXPECT_EQ(field(*make("dora:rank=1000000", w), "u").shape()[1], 7u);
  EXPECT_EQ(field(*make("loha:rank=1000000", w), "u1").shape()[1], 7u);
  EXPECT_EQ(field(*make("lokr:rank=1000000", w), "w2").size(), 21u);
}

}  // namespace
}  // namespace gradview
