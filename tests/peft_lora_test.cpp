// PEFT's starts of a LoRA pair and steps of its LoRA optimizers, repeated from the gradient of W
// alone. tests/golden/peft_lora.py recorded them, in float64.
//
// Where PEFT and a paper differ, the recorded side is PEFT's, under the option that says so: lora_ga
// with variant=peft (the paper's is held by LoraGa.FirstOperator…), lora_fa with correction=peft.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "gradview/io/safetensors.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/lora.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// Singular vectors move by ε‖W‖/gap; the smallest gap of these matrices is some 0.05 ‖W‖. A step
// rounds by some 1e-15, and 8 of them follow one another.
constexpr double kTolerance = 1e-12;

const SafetensorsReader& recorded() {
  static const SafetensorsReader file(GRADVIEW_TESTS_DIR "/golden/peft_lora.safetensors");
  return file;
}

bool has(const std::string& name) { return recorded().find(name) != nullptr; }

Matrix tensor(const std::string& name) {
  const Tensor* found = recorded().find(name);
  if (!found) throw std::runtime_error(recorded().path() + ": no tensor '" + name + "'");
  return recorded().matrix(*found);
}

std::vector<std::vector<std::string>> lines(const std::string& key) try {
  std::vector<std::vector<std::string>> out;
  std::istringstream text(recorded().metadata().at(key));
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    out.emplace_back();
    for (std::string word; words >> word;) out.back().push_back(word);
  }
  return out;
} catch (const std::exception&) {
  return {};  // before main; PeftFile.IsComplete says what is wrong
}

double deviation(const Matrix& got, const Matrix& want) {  // of |a − b| / max(1, |b|)
  if (shape_of(got) != shape_of(want)) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(got.data()[i] - want.data()[i]);
    worst = std::max(worst, off / std::max(1.0, std::abs(static_cast<double>(want.data()[i]))));
  }
  return worst;
}

void sign_columns(Matrix& u, Matrix* with_rows) {
  for (std::size_t k = 0; k < u.shape()[1]; ++k) {
    std::size_t largest = 0;
    for (std::size_t i = 1; i < u.shape()[0]; ++i) {
      if (std::abs(u(i, k)) > std::abs(u(largest, k))) largest = i;
    }
    if (u(largest, k) >= 0) continue;
    for (std::size_t i = 0; i < u.shape()[0]; ++i) u(i, k) = -u(i, k);
    if (!with_rows) continue;
    for (std::size_t j = 0; j < with_rows->shape()[1]; ++j)
      (*with_rows)(k, j) = -(*with_rows)(k, j);
  }
}

void set(Projector& projector, const std::string& name, const Matrix& numbers) {
  projector.fields([&](std::string_view each, Matrix& value, Role) {
    if (each != name) return;
    ASSERT_EQ(value.size(), numbers.size()) << name;
    std::copy_n(numbers.data(), numbers.size(), value.data());
  });
}

Matrix get(Projector& projector, const std::string& name) {
  Matrix out;
  projector.fields([&](std::string_view each, Matrix& value, Role) {
    if (each == name) out = value;
  });
  return out;
}

double off_start(const std::string& name, const std::string& projector_spec) {
  const Spec spec = parse_spec(projector_spec);
  const Matrix w = tensor(name + ".w");
  const Site site{"w", w, 1};
  const auto projector = make_projector(spec, site);
  if (projector->starts_from_gradient()) {
    projector->start(Gradient::dense(tensor(name + ".g")), site);
  }
  LoraPair pair{get(*projector, "u"), get(*projector, "v")};
  const double s = projector->product()->s;
  if (spec.find("pissa_niter")) {
    const Svd drawn = randomized_svd(w, shape_of(w), tensor(name + ".draw"), 3);
    pair = PissaInit::from(drawn, pair.v.shape()[0], s);
  } else if (has(name + ".draw_q")) {
    pair = OrthogonalInit::from(tensor(name + ".draw_q"), tensor(name + ".draw_x"),
                                tensor(name + ".draw_y"));
  }
  const bool gradient = projector->starts_from_gradient();
  sign_columns(pair.u, gradient ? nullptr : &pair.v);
  if (gradient) {
    Matrix columns_of_v = transpose(pair.v);
    sign_columns(columns_of_v, nullptr);
    pair.v = transpose(columns_of_v);
  }
  double worst =
      std::max(deviation(pair.u, tensor(name + ".u")), deviation(pair.v, tensor(name + ".v")));
  if (has(name + ".base")) {
    Matrix base = w;
    add_matmul(base, -s, pair.u, pair.v);
    worst = std::max(worst, deviation(base, tensor(name + ".base")));
  }
  return worst;
}

std::string text_of(double x) {
  std::ostringstream text;
  text << x;
  return text.str();
}

class PeftStart : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(PeftStart, IsTheStartOfTheFactors) {
  const double worst = off_start(GetParam()[0], GetParam()[1]);
  EXPECT_LE(worst, kTolerance);
  RecordProperty("deviation", text_of(worst));
}

std::vector<std::vector<std::string>> starts(bool drawn_v) {
  std::vector<std::vector<std::string>> out;
  for (auto& line : lines("starts")) {
    if ((line[0] == "zero" || line[0] == "gaussian") == drawn_v) out.push_back(line);
  }
  return out;
}

const auto kName = [](const auto& tested) { return tested.param[0]; };
INSTANTIATE_TEST_SUITE_P(Lora, PeftStart, testing::ValuesIn(starts(false)), kName);

TEST(PeftFile, IsComplete) {
  EXPECT_GT(recorded().metadata().at("starts").size(), 0u);
  EXPECT_GE(starts(false).size(), 22u);
  EXPECT_GE(lines("runs").size(), 9u);
}

// Of a random v, the ratio to the same draw from U(−1, 1) or N(0, 1).
TEST(PeftDraw, HasTheScaleOfOurs) {
  for (const auto& line : starts(true)) {
    const Matrix w = tensor(line[0] + ".w"), v = tensor(line[0] + ".v");
    const Matrix draw = tensor(line[0] + ".draw");
    const Site site{"w", w, 1};
    const auto projector = make_projector(parse_spec(line[1]), site);
    const Shape shape = shape_of(v);
    const Stream rng = site.rng(Purpose::init);
    Matrix ours = line[0] == "zero" ? uniform(shape, -1, 1, rng) : normal(shape, 1, rng);
    const double ratio = v(0, 0) / draw(0, 0);
    EXPECT_LE(deviation(
                  [&] {
                    Matrix a = draw;
                    scale(a, ratio);
                    return a;
                  }(),
                  v),
              kTolerance);
    scale(ours, ratio);
    EXPECT_LE(deviation(get(*projector, "v"), ours), kTolerance) << line[0];
    EXPECT_EQ(squared_norm(tensor(line[0] + ".u")) + squared_norm(get(*projector, "u")), 0);
  }
}

double off_run(const std::string& name, const std::string& spec, const std::string& rule,
               const std::string& lr) {
  Matrix w = tensor(name + ".w");
  const Matrix x = tensor(name + ".x"), target = tensor(name + ".target");
  const Matrix u = tensor(name + ".u"), v = tensor(name + ".v"), weight = tensor(name + ".weight");
  const Matrix square = matmul_tn(x, x);
  auto projector = make_projector(parse_spec(spec), Site{"w", w, 1});
  set(*projector, "u", rows(u, 0, 1));
  set(*projector, "v", rows(v, 0, 1));
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = std::stod(lr)});
  optimizer.add("w", w, std::move(projector));
  const auto flat = [](Matrix a) {
    a.reshape({std::size_t{1}, a.size()});
    return a;
  };
  double worst = 0;
  for (std::size_t step = 0; step < u.shape()[0]; ++step) {
    Projector& now = optimizer.projector("w");
    worst = std::max({worst, deviation(flat(get(now, "u")), rows(u, step, 1)),
                      deviation(flat(get(now, "v")), rows(v, step, 1)),
                      deviation(flat(w), rows(weight, step, 1))});
    optimizer.collect("w", Gradient::dense(matmul(difference(w, target), square)));
    optimizer.step();
  }
  return worst;
}

class PeftRun : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(PeftRun, MovesFactorsAndWeightAlike) {
  const auto& line = GetParam();
  const double worst = off_run(line[0], line[1], line[2], line[3]);
  EXPECT_LE(worst, kTolerance);
  RecordProperty("deviation", text_of(worst));
}

INSTANTIATE_TEST_SUITE_P(Lora, PeftRun, testing::ValuesIn(lines("runs")), kName);

// What the tolerance is worth, and where PEFT is not the paper.
TEST(PeftControl, SeesSmallFaults) {
  const double seen = 10 * kTolerance;
  const auto run = [&](const char* name, const std::string& spec, const char* rule,
                       const char* lr) { return off_run(name, spec, rule, lr); };
  const std::string tall = "lora:rank=3,alpha=5", fa = "lora_fa:rank=3,alpha=5";
  EXPECT_LE(run("plus_sgd", tall + ",lr_ratio=4", "sgd", "0.05"), kTolerance);
  EXPECT_GT(run("plus_sgd", tall + ",lr_ratio=4.00000001", "sgd", "0.05"), seen);
  EXPECT_LE(run("riemannian_sgd", tall + ",precondition=riemannian", "sgd", "0.02"), kTolerance);
  EXPECT_GT(run("riemannian_sgd", tall + ",precondition=riemannian,reg=0.0100001", "sgd", "0.02"),
            seen);
  EXPECT_GT(run("fa_tall", fa, "adam:eps=1e-30", "0.02"), 1e-3);  // the paper's gradient
  const std::string ga = "lora:rank=3,alpha=5,scaling=rslora,init=lora_ga";
  EXPECT_LE(off_start("ga_ArB2r_tall", ga + ",variant=peft"), kTolerance);
  EXPECT_GT(off_start("ga_ArB2r_tall", ga), 0.1);  // the paper's start
}

}  // namespace
}  // namespace gradview
