// The linear layers of transformer blocks: every gradient against central differences, in double.
#include "gradview/models/linear_blocks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"

namespace gradview {
namespace {

constexpr double kStep = 1e-5;
// Differences are off by h² f‴/6, some 1e-10, and by rounding, some ε f/h = 1e-10 for a loss of a
// few units.
constexpr double kTolerance = 1e-8;

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "linear blocks", which));
}

struct Stack {
  LinearBlocks model{.width = 4, .hidden = 6, .layers = 2};
  Weights weights = model.initial(3);
  Matrix x = draw({5, 4}, 1), towards = draw({5, 4}, 2);

  double loss() const { return dot(model.outputs(weights, x), towards); }  // δ = towards
  std::map<std::string, Matrix> gradients(Matrix* dx, std::string_view lowest = {}) const {
    std::map<std::string, Matrix> all;
    Matrix input = model.backward(
        model.forward(weights, x), towards,
        [&](const std::string& name, const Gradient& g) { all[name] = g.materialize(); }, lowest);
    if (dx) *dx = std::move(input);
    return all;
  }
  double difference_at(double& entry) const {
    const double before = entry;
    entry = before + kStep;
    const double above = loss();
    entry = before - kStep;
    const double slope = (above - loss()) / (2 * kStep);
    entry = before;
    return slope;
  }
  void expect_gradient(const Matrix& g, Matrix& at, const std::string& name) const {
    ASSERT_EQ(shape_of(g), shape_of(at)) << name;
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double numeric = difference_at(at.data()[i]);
      EXPECT_NEAR(g.data()[i], numeric, kTolerance * std::max(1.0, std::abs(numeric))) << name;
    }
  }
};

TEST(LinearBlocks, EveryGradientIsThatOfTheLoss) {
  Stack stack;
  const LinearBlocks::Pass pass = stack.model.forward(stack.weights, stack.x);
  for (std::size_t block = 0; block < 2; ++block) {  // no kink of relu within reach
    const Matrix& up = stack.weights[stack.model.weight_name(block, "up")];
    for (const double z : matmul_nt(*pass.blocks[block].z, up)) ASSERT_GT(std::abs(z), 100 * kStep);
  }
  Matrix dx;
  const auto gradients = stack.gradients(&dx);
  EXPECT_EQ(gradients.size(), 12u);
  for (auto& [name, value] : stack.weights) stack.expect_gradient(gradients.at(name), value, name);
  stack.expect_gradient(dx, stack.x, "x");
}

TEST(LinearBlocks, ForwardIsTheFormula) {
  const Stack stack;
  const LinearBlocks one{.width = 4, .hidden = 6, .layers = 1};
  const auto w = [&](const char* name) { return stack.weights[one.weight_name(0, name)]; };
  Matrix qkv = w("q");
  axpy(qkv, 1, w("k"));
  axpy(qkv, 1, w("v"));
  const Matrix at_o = matmul(w("o"), qkv);  // o(a(x)) = o (q + k + v) x / 3
  Matrix z = stack.x;
  add_matmul(z, 1.0 / 3, stack.x, transpose(at_o));
  Matrix f = matmul_nt(z, w("up"));
  for (Real& entry : f) entry = std::max(entry, Real{0});
  Matrix y = z;
  axpy(y, 1, matmul_nt(f, w("down")));
  const Matrix out = one.outputs(stack.weights, stack.x);
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(out.data()[i], y.data()[i], 1e-14);  // sums of some twenty terms of size one
  }
  EXPECT_EQ(one.forward(stack.weights, stack.x).outputs, out);
  EXPECT_EQ(stack.model.forward(stack.weights, stack.x).outputs,
            stack.model.outputs(stack.weights, stack.x));
}

TEST(LinearBlocks, StopsAtTheLowestTrainedWeight) {
  const Stack stack;
  Matrix dx;
  const auto all = stack.gradients(&dx);
  EXPECT_EQ(shape_of(dx), (Shape{5, 4}));
  const std::vector<std::string> names = stack.model.weight_names();  // q first, down last
  EXPECT_EQ(names.front(), "block1.q.weight");
  EXPECT_EQ(names.back(), "block2.down.weight");
  for (std::size_t first = 0; first < names.size(); ++first) {
    const auto some = stack.gradients(&dx, names[first]);
    EXPECT_EQ(dx.size(), 0u);
    EXPECT_EQ(some.size(), names.size() - first);
    for (const auto& [name, g] : some) EXPECT_EQ(g, all.at(name)) << name;
    EXPECT_TRUE(some.contains(names[first]));
  }
  EXPECT_THROW(stack.gradients(&dx, "block3.q.weight"), std::invalid_argument);
}

TEST(LinearBlocks, LetsGoOfWhatIsBehind) {
  const Stack stack;
  LinearBlocks::Pass pass = stack.model.forward(stack.weights, stack.x);
  std::vector<std::weak_ptr<const Matrix>> kept;  // inputs of down, in the order of backward
  for (std::size_t block = 2; block-- > 0;) kept.emplace_back(pass.blocks[block].f);
  std::size_t alive_at_up = 0;
  stack.model.backward(std::move(pass), stack.towards,
                       [&](const std::string& name, const Gradient&) {
                         if (!name.ends_with("up.weight")) return;
                         for (const auto& f : kept) alive_at_up += !f.expired();
                       });
  EXPECT_EQ(alive_at_up, 1u);  // of two at the last block's up: the first block's f; none later
}

TEST(LinearBlocks, StartsByTheSeedAndRefusesOtherShapes) {
  const LinearBlocks model{.width = 4, .hidden = 6, .layers = 2};
  const Weights one = model.initial(1);
  EXPECT_EQ(one.size(), 12u);
  EXPECT_EQ(shape_of(one["block2.up.weight"]), (Shape{6, 4}));
  EXPECT_EQ(shape_of(one["block2.down.weight"]), (Shape{4, 6}));
  EXPECT_EQ(model.initial(1)["block1.o.weight"], one["block1.o.weight"]);
  EXPECT_FALSE(model.initial(2)["block1.o.weight"] == one["block1.o.weight"]);
  EXPECT_FALSE(one["block1.q.weight"] == one["block1.k.weight"]);
  EXPECT_THROW(model.forward(one, draw({5, 3}, 1)), std::invalid_argument);
}

}  // namespace
}  // namespace gradview
