// Golden: an optimiser that sees only the gradient of W repeats what PyTorch did to trained
// factors.
//
// tests/golden/record.py wrote W as a differentiable expression of the factors and let autograd and
// torch.optim train them. Here the gradient of W is computed by hand, stays the pair (δ, x), and
// Optimizer does the rest.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <map>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradview/io/safetensors.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {
namespace {

// A step rounds by some 1e-16, and a change of the start of these problems grows at most 200-fold
// on its way through 500 steps (measured by perturbing W0): 1e-16 · 200 · √500 is 5e-13.
constexpr double kTolerance = 1e-12;
constexpr std::size_t kSteps = 500;
const std::string kBody = "fc1.weight", kHead = "fc2.weight";

struct Case {
  std::string name, projector, optimizer, schedule;
  double lr, clip;
  std::size_t accumulate;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.projector << " " << c.optimizer << " lr=" << c.lr << " " << c.schedule
       << " clip=" << c.clip << " accumulate=" << c.accumulate;
}

const SafetensorsReader& recorded() {
  static const SafetensorsReader file(std::string(GRADVIEW_GOLDEN_DIR) + "/torch.safetensors");
  return file;
}

Matrix recorded(const std::string& name) {
  const Tensor* tensor = recorded().find(name);
  if (!tensor) throw std::runtime_error(recorded().path() + ": no tensor '" + name + "'");
  return recorded().matrix(*tensor);
}

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  std::istringstream lines(recorded().metadata().at("cases"));
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream columns(line);
    Case c;
    std::string clip;  // operator>> does not read "inf"
    columns >> c.name >> c.projector >> c.optimizer >> c.lr >> c.schedule >> clip >> c.accumulate;
    if (!columns) throw std::runtime_error(recorded().path() + ": case '" + line + "'");
    c.clip = std::stod(clip);
    cases.push_back(c);
  }
  return cases;
}

std::vector<Case> cases() {
  try {
    return read_cases();
  } catch (const std::exception&) {
    return {};  // before main; GoldenFile.IsComplete says what is wrong
  }
}

std::vector<std::size_t> kept_steps() {
  std::istringstream numbers(recorded().metadata().at("kept"));
  std::vector<std::size_t> steps;
  for (std::size_t step; numbers >> step;) steps.push_back(step);
  return steps;
}

struct Pass {
  double loss;
  Gradient body, head;
};

// Mean softmax cross-entropy of tanh(x w1ᵀ) w2ᵀ to the rows of y, and its gradients in w1 and w2.
Pass run(const Matrix& x, const Matrix& y, const Matrix& w1, const Matrix& w2) {
  const auto [count, classes] = shape_of(y);
  Matrix h = matmul_nt(x, w1);
  for (std::size_t i = 0; i < h.size(); ++i) h.data()[i] = std::tanh(h.data()[i]);
  Matrix delta2 = matmul_nt(h, w2);
  double loss = 0;
  for (std::size_t t = 0; t < count; ++t) {
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k) sum += std::exp(delta2(t, k));
    for (std::size_t k = 0; k < classes; ++k) {
      loss += y(t, k) * (std::log(sum) - delta2(t, k));
      delta2(t, k) = (std::exp(delta2(t, k)) / sum - y(t, k)) / static_cast<double>(count);
    }
  }
  Matrix delta1 = matmul(delta2, w2);
  for (std::size_t i = 0; i < h.size(); ++i) delta1.data()[i] *= 1 - h.data()[i] * h.data()[i];
  return {loss / static_cast<double>(count), Gradient::outer(share(std::move(delta1)), share(x)),
          Gradient::outer(share(std::move(delta2)), share(std::move(h)))};
}

struct Worst {
  double deviation = 0;  // |a − b| / max(1, |b|)
  std::string where = "nowhere";

  void see(double a, double b, const std::string& what, std::size_t step) {
    const double d = std::abs(a - b) / std::max(1.0, std::abs(b));
    if (d <= deviation) return;
    deviation = d;
    where = what + " after " + std::to_string(step) + " steps";
  }
  void see(const Matrix& a, const Matrix& trajectory, std::size_t row, const std::string& what,
           std::size_t step) {
    ASSERT_EQ(a.size(), trajectory.shape()[1]) << what;
    for (std::size_t i = 0; i < a.size(); ++i) see(a.data()[i], trajectory(row, i), what, step);
  }
};

class Replay {
 public:
  explicit Replay(const Case& c)
      : case_(c),
        weights_{{kBody, recorded("start." + kBody)}, {kHead, recorded("start." + kHead)}},
        optimizer_({.spec = make_optimizer_spec(parse_spec(c.optimizer)),
                    .lr = c.lr,
                    .schedule = make_schedule(c.schedule),
                    .steps = kSteps,
                    .clip = c.clip}) {
    for (auto& [name, weight] : weights_) {
      const Site site{.name = name, .weight = weight, .before_softmax = name == kHead};
      std::unique_ptr<Projector> projector = make_projector(parse_spec(c.projector), site);
      expect(name);
      projector->fields([&, &name = name](std::string_view field, Matrix& value, Role) {
        const Matrix& factor = expect(name + "." + std::string(field));
        ASSERT_EQ(factor.shape()[1], value.size()) << c.name << ": " << name << "." << field;
        std::copy_n(factor.data(), value.size(), value.data());
      });
      optimizer_.add(name, weight, std::move(projector), site.before_softmax);
    }
  }

  Worst run_all() {
    const std::vector<std::size_t> kept = kept_steps();
    const Matrix losses = recorded(case_.name + ".loss");
    std::size_t row = 0;
    for (std::size_t step = 0; step <= kSteps; ++step) {
      if (row < kept.size() && kept[row] == step) compare(row++, step);
      worst_.see(collect(), losses(0, step), "loss", step);
      optimizer_.step();
    }
    EXPECT_EQ(row, kept.size());
    return worst_;
  }

 private:
  const Matrix& expect(const std::string& name) {
    return expected_.emplace(name, recorded(case_.name + "." + name)).first->second;
  }

  double collect() {
    const std::size_t count = x_.shape()[0] / case_.accumulate;
    const double share = 1 / static_cast<double>(case_.accumulate);
    double loss = 0;
    for (std::size_t k = 0; k < case_.accumulate; ++k) {
      const Pass pass = run(rows(x_, k * count, count), rows(y_, k * count, count),
                            weights_.at(kBody), weights_.at(kHead));
      loss += share * pass.loss;
      optimizer_.collect(kBody, pass.body, share);
      optimizer_.collect(kHead, pass.head, share);
    }
    return loss;
  }

  void compare(std::size_t row, std::size_t step) {
    for (const auto& [name, weight] : weights_) {
      worst_.see(weight, expected_.at(name), row, name, step);
      optimizer_.projector(name).fields(
          [&, &name = name](std::string_view field, Matrix& value, Role) {
            const std::string full_name = name + "." + std::string(field);
            worst_.see(value, expected_.at(full_name), row, full_name, step);
          });
    }
  }

  Case case_;
  std::map<std::string, Matrix> weights_, expected_;
  Matrix x_ = recorded("x"), y_ = recorded("y");
  Optimizer optimizer_;
  Worst worst_;
};

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, MovesAsTrainedFactorsDoUnderTorch) {
  const Worst worst = Replay(GetParam()).run_all();
  EXPECT_LE(worst.deviation, kTolerance) << worst.where;
  std::ostringstream deviation;
  deviation << worst.deviation;
  RecordProperty("deviation", deviation.str());
}

INSTANTIATE_TEST_SUITE_P(Torch, Golden, testing::ValuesIn(cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(GoldenFile, IsComplete) {
  std::map<std::string, std::size_t> optimizers, projectors;
  for (const Case& c : read_cases()) {
    ++optimizers[parse_spec(c.optimizer).name];
    ++projectors[parse_spec(c.projector).name];
  }
  for (const char* name : {"sgd", "adam", "adamw"}) EXPECT_GT(optimizers[name], 0u) << name;
  for (const char* name : {"full", "lora", "lora_fa", "additive"}) {
    EXPECT_GT(projectors[name], 0u) << name;
  }
}

// What the tolerance is worth: each of these is a mistake that a step function could hide.
TEST(GoldenControl, SeesSmallFaults) {
  std::map<std::string, Case> named;
  for (const Case& c : read_cases()) named[c.name] = c;
  const auto with = [&](const char* name, auto change) {
    Case c = named.at(name);
    change(c);
    return Replay(c).run_all().deviation;
  };
  const double seen = 10 * kTolerance;
  EXPECT_GT(with("lora_adam", [](Case& c) { c.lr *= 1 + 1e-9; }), seen);
  EXPECT_GT(with("lora_adam", [](Case& c) { c.optimizer = "adam:eps=1.01e-8"; }), seen);
  EXPECT_GT(with("lora_sgd", [](Case& c) { c.projector = "lora:rank=3,alpha=5.00000001"; }), seen);
  EXPECT_GT(with("lora_clip_momentum", [](Case& c) { c.clip *= 1 + 1e-8; }), seen);
  EXPECT_GT(with("lora_adamw", [](Case& c) { c.optimizer += ",decay_on=weight"; }), seen);
}

}  // namespace
}  // namespace gradview
