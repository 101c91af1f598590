// Every layer, activation and loss against central differences, in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/rng.hpp"
#include "gradview/models/linear.hpp"
#include "gradview/models/loss.hpp"
#include "gradview/models/mlp.hpp"

namespace gradview {
namespace {

// Central differences with step h = 1e-5 are off by h² f‴/6, some 1e-11, and by rounding, some
// ε f/h = 5e-11 for losses and third derivatives of a few units.
constexpr double kStep = 1e-5;
constexpr double kTolerance = 1e-9;  // times max(1, ‖g‖∞)

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "models", which));
}

using Loss = std::function<double()>;

Matrix numeric_gradient(Matrix& at, const Loss& loss) {
  Matrix g = zeros(shape_of(at));
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double before = at.data()[i];
    at.data()[i] = before + kStep;
    const double above = loss();
    at.data()[i] = before - kStep;
    g.data()[i] = (above - loss()) / (2 * kStep);
    at.data()[i] = before;
  }
  return g;
}

testing::AssertionResult is_gradient(const Matrix& g, Matrix& at, const Loss& loss) {
  const Matrix numeric = numeric_gradient(at, loss);
  if (shape_of(g) != shape_of(at)) return testing::AssertionFailure() << to_string(shape_of(g));
  double largest = 1;
  for (const double x : numeric) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (std::abs(g.data()[i] - numeric.data()[i]) <= kTolerance * largest) continue;
    return testing::AssertionFailure()
           << "entry " << i << " is " << g.data()[i] << ", by differences " << numeric.data()[i];
  }
  return testing::AssertionSuccess();
}

TEST(Linear, IsTheProductWithWPlusB) {
  const Matrix x = draw({4, 3}, 1), w = draw({5, 3}, 2), b = draw({1, 5}, 3);
  const Matrix y = linear_forward(x, w, b);
  ASSERT_EQ(shape_of(y), (Shape{4, 5}));
  for (std::size_t t = 0; t < 4; ++t) {
    for (std::size_t i = 0; i < 5; ++i) {
      double sum = b(0, i);
      for (std::size_t j = 0; j < 3; ++j) sum += w(i, j) * x(t, j);
      EXPECT_NEAR(y(t, i), sum, 1e-14);  // four terms of size at most 10
    }
  }
  EXPECT_THROW(linear_forward(x, w, draw({1, 3}, 3)), std::invalid_argument);
  EXPECT_THROW(linear_forward(x, draw({3, 5}, 2), b), std::invalid_argument);
}

TEST(Linear, GradientsAreThoseOfTheLoss) {
  Matrix x = draw({4, 3}, 1), w = draw({5, 3}, 2), b = draw({1, 5}, 3);
  const Matrix target = draw({4, 5}, 4);
  const Loss loss = [&] { return mean_squared_error(linear_forward(x, w, b), target); };
  Matrix delta;
  mean_squared_error(linear_forward(x, w, b), target, &delta);
  EXPECT_TRUE(is_gradient(linear_input_gradient(delta, w), x, loss));
  EXPECT_TRUE(is_gradient(linear_bias_gradient(delta), b, loss));
  EXPECT_TRUE(is_gradient(Gradient::outer(share(delta), share(x)).materialize(), w, loss));
}

const std::vector<Activation> kActivations{Activation::relu, Activation::gelu, Activation::tanh};

TEST(Activation, ValuesAreThoseOfTheirFormulas) {
  for (const double z : {-3.0, -0.5, 0.0, 0.7, 2.0}) {
    const double expected[] = {std::max(z, 0.0), z * (1 + std::erf(z / std::sqrt(2.0))) / 2,
                               (std::exp(2 * z) - 1) / (std::exp(2 * z) + 1)};
    for (std::size_t k = 0; k < 3; ++k) {
      Matrix a = matrix({{z}});
      activate(kActivations[k], a);
      EXPECT_NEAR(a(0, 0), expected[k], 1e-15) << z;
    }
  }
}

TEST(Activation, DerivativesAreThoseOfTheValues) {
  Matrix z = matrix({{-30, -3, -0.5, -0.01, 0.02, 0.7, 2, 25}});
  for (const Activation kind : kActivations) {
    Matrix delta = zeros(shape_of(z));
    std::fill(delta.begin(), delta.end(), 1.0);
    times_derivative(kind, z, delta);
    EXPECT_TRUE(is_gradient(delta, z, [&] {
      Matrix a = z;
      activate(kind, a);
      double sum = 0;
      for (const double x : a) sum += x;
      return sum;
    }));
    EXPECT_THROW(times_derivative(kind, zeros({1, 7}), delta), std::invalid_argument);
  }
}

TEST(Activation, DerivativeMultipliesAndNanStaysNan) {
  for (const Activation kind : kActivations) {
    Matrix one = matrix({{1, 1}}), three = matrix({{3, -3}});
    const Matrix z = matrix({{0.5, 0.5}});
    times_derivative(kind, z, one);
    times_derivative(kind, z, three);
    EXPECT_NEAR(three(0, 0), 3 * one(0, 0), 1e-15);
    EXPECT_NEAR(three(0, 1), -3 * one(0, 0), 1e-15);
    Matrix nan = matrix({{std::numeric_limits<double>::quiet_NaN()}});
    activate(kind, nan);
    EXPECT_TRUE(std::isnan(nan(0, 0)));
  }
}

using Labels = std::vector<std::uint8_t>;

struct SoftmaxCase {
  Labels labels;
  Classes classes;
};
const std::vector<SoftmaxCase> kSoftmax{{{0, 2, 5, 3}, {}},
                                        {{2, 4, 3, 2}, {.first = 2, .last = 5}}};

TEST(SoftmaxCrossEntropy, IsTheMeanNegativeLogProbability) {
  const Matrix z = draw({4, 6}, 1);
  for (const auto& [labels, classes] : kSoftmax) {
    double loss = 0;
    for (std::size_t t = 0; t < 4; ++t) {
      double sum = 0;
      for (std::size_t c = classes.first; c < std::min<std::size_t>(classes.last, 6); ++c) {
        sum += std::exp(z(t, c));
      }
      loss -= std::log(std::exp(z(t, labels[t])) / sum) / 4;
    }
    EXPECT_NEAR(softmax_cross_entropy(z, labels, classes).loss, loss, 1e-14);
  }
}

TEST(SoftmaxCrossEntropy, GradientIsThatOfTheLossAndZeroOutsideTheClasses) {
  Matrix z = draw({4, 6}, 1);
  for (const auto& [labels, classes] : kSoftmax) {
    Matrix delta;
    softmax_cross_entropy(z, labels, classes, &delta);
    EXPECT_TRUE(is_gradient(delta, z, [&, &labels = labels, &classes = classes] {
      return softmax_cross_entropy(z, labels, classes).loss;
    }));
    for (std::size_t t = 0; t < 4; ++t) {
      double row = 0;
      for (std::size_t c = 0; c < 6; ++c) {
        row += delta(t, c);
        const bool inside = c >= classes.first && c < classes.last;
        EXPECT_TRUE(inside || delta(t, c) == 0);
      }
      EXPECT_NEAR(row, 0, 1e-15);
    }
  }
}

TEST(SoftmaxCrossEntropy, StandsLargeLogitsAndTellsOfNan) {
  Matrix delta;
  const Score sure =
      softmax_cross_entropy(matrix({{1000, -1000}, {-1000, 1000}}), Labels{0, 0}, {}, &delta);
  EXPECT_EQ(sure.loss, 1000);  // (0 + 2000) / 2
  EXPECT_EQ(sure.accuracy, 0.5);
  EXPECT_EQ(delta, matrix({{0, 0}, {-0.5, 0.5}}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Matrix& z : {matrix({{nan, 1}}), matrix({{1, nan}})}) {
    EXPECT_TRUE(std::isnan(softmax_cross_entropy(z, Labels{0}).loss));
  }
}

TEST(SoftmaxCrossEntropy, TiesGoToTheFirstOfTheLargest) {
  const Matrix z = matrix({{1, 2, 2}, {1, 2, 2}, {2, 2, 2}});
  EXPECT_NEAR(softmax_cross_entropy(z, Labels{1, 2, 0}).accuracy, 2.0 / 3, 1e-15);
  EXPECT_EQ(softmax_cross_entropy(z, Labels{2, 1, 1}, {.first = 1}).accuracy, 2.0 / 3);
}

TEST(SoftmaxCrossEntropy, RefusesLabelsThatDoNotFit) {
  const Matrix z = draw({2, 6}, 1);
  EXPECT_THROW(softmax_cross_entropy(z, Labels{0}), std::invalid_argument);
  EXPECT_THROW(softmax_cross_entropy(z, Labels{0, 1, 2}), std::invalid_argument);
  EXPECT_THROW(softmax_cross_entropy(z, Labels{0, 6}), std::invalid_argument);
  EXPECT_THROW(softmax_cross_entropy(z, Labels{3, 1}, {.first = 2, .last = 5}),
               std::invalid_argument);
  EXPECT_THROW(softmax_cross_entropy(z, Labels{3, 5}, {.first = 2, .last = 5}),
               std::invalid_argument);
}

TEST(MeanSquaredError, IsHalfTheMeanSquareOverTokens) {
  const Matrix y = matrix({{1, 2}, {3, 4}, {0, 0}}), target = matrix({{0, 0}, {3, 1}, {0, 1}});
  EXPECT_EQ(mean_squared_error(y, target), (5 + 9 + 1) / 6.0);
  EXPECT_THROW(mean_squared_error(y, transpose(target)), std::invalid_argument);
}

TEST(MeanSquaredError, GradientIsThatOfTheLoss) {
  Matrix y = draw({3, 2}, 1), delta;
  const Matrix target = draw({3, 2}, 2);
  mean_squared_error(y, target, &delta);
  EXPECT_TRUE(is_gradient(delta, y, [&] { return mean_squared_error(y, target); }));
}

// A network of two hidden layers under every activation and loss.
class Network {
 public:
  Network(Activation activation, int loss) : mlp{{4, 6, 5, 3}, activation}, loss_(loss) {
    weights = mlp.initial(3);
    for (auto& [name, value] : weights) {  // larger than at first, so that no gradient is tiny
      scale(value, 2);
    }
  }

  double loss() const {
    const Matrix y = mlp.outputs(weights, x_);
    return loss_of(y, nullptr);
  }
  std::map<std::string, Matrix> gradients() const {
    const Mlp::Pass pass = mlp.forward(weights, x_);
    Matrix delta;
    loss_of(pass.outputs, &delta);
    std::map<std::string, Matrix> all;
    mlp.backward(pass, delta,
                 [&](const std::string& name, const Gradient& g) { all[name] = g.materialize(); });
    return all;
  }
  // How near the nearest sum is to the kink of relu.
  double nearest_kink() const {
    double least = 1;
    for (const Matrix& sums : mlp.forward(weights, x_).sums) {
      for (const double z : sums) least = std::min(least, std::abs(z));
    }
    return least;
  }

  Mlp mlp;
  Weights weights;

 private:
  double loss_of(const Matrix& y, Matrix* delta) const {
    const Labels labels{0, 2, 1, 2, 0, 1, 1}, two{0, 1, 1, 0, 0, 1, 1};
    if (loss_ == 0) return softmax_cross_entropy(y, labels, {}, delta).loss;
    if (loss_ == 1) return softmax_cross_entropy(y, two, {.first = 0, .last = 2}, delta).loss;
    return mean_squared_error(y, target_, delta);
  }

  int loss_;
  Matrix x_ = draw({7, 4}, 1), target_ = draw({7, 3}, 2);
};

TEST(Mlp, EveryGradientIsThatOfTheLoss) {
  for (const Activation activation : kActivations) {
    for (const int loss : {0, 1, 2}) {
      Network net(activation, loss);
      ASSERT_TRUE(activation != Activation::relu || net.nearest_kink() > 100 * kStep);
      auto gradients = net.gradients();
      EXPECT_EQ(gradients.size(), net.weights.size());
      for (auto& [name, value] : net.weights) {
        EXPECT_TRUE(is_gradient(gradients.at(name), value, [&] { return net.loss(); }))
            << name << ", activation " << static_cast<int>(activation) << ", loss " << loss;
      }
    }
  }
}

TEST(Mlp, AWrongGradientIsNoticed) {
  Network net(Activation::gelu, 0);
  Matrix& w = net.weights["fc2.weight"];
  const Matrix g = net.gradients().at("fc2.weight");
  const Loss loss = [&] { return net.loss(); };
  ASSERT_TRUE(is_gradient(g, w, loss));
  Matrix doubled = g, one_off = g, approximate = g, turned = transpose(g);
  scale(doubled, 2);
  scale(approximate, 1 + 1e-6);
  one_off(2, 3) += 1e-7;
  for (const Matrix& wrong : {doubled, one_off, approximate, turned, zeros(shape_of(g))}) {
    EXPECT_FALSE(is_gradient(wrong, w, loss));
  }
}

TEST(Mlp, LastLayerComesFirstAndOutputsAreThoseOfForward) {
  Network net(Activation::tanh, 2);
  const Matrix x = draw({3, 4}, 5);
  const Mlp::Pass pass = net.mlp.forward(net.weights, x);
  EXPECT_EQ(pass.outputs, net.mlp.outputs(net.weights, x));
  std::vector<std::string> order;
  net.mlp.backward(pass, draw({3, 3}, 6),
                   [&](const std::string& name, const Gradient&) { order.push_back(name); });
  EXPECT_EQ(order, (std::vector<std::string>{"fc3.weight", "fc3.bias", "fc2.weight", "fc2.bias",
                                             "fc1.weight", "fc1.bias"}));
}

TEST(Mlp, StartsUniformWithinTheRootOfItsInputsByTheSeed) {
  const Mlp mlp{{4, 30, 3}};
  const Weights one = mlp.initial(1);
  for (const auto& [name, value] : one) {
    const double bound = 1 / std::sqrt(name.starts_with("fc1") ? 4.0 : 30.0);
    double largest = 0;
    for (const double x : value) largest = std::max(largest, std::abs(x));
    EXPECT_LE(largest, bound) << name;
    EXPECT_TRUE(value.size() < 90 || largest > 0.9 * bound) << name;  // 0.9⁹⁰: once in 10⁴ seeds
  }
  EXPECT_EQ(mlp.initial(1)["fc1.weight"], one["fc1.weight"]);
  EXPECT_FALSE(mlp.initial(2)["fc1.weight"] == one["fc1.weight"]);
  EXPECT_EQ(shape_of(one["fc2.weight"]), (Shape{3, 30}));
  EXPECT_EQ(shape_of(one["fc2.bias"]), (Shape{1, 3}));
}

TEST(Mlp, RefusesOtherShapesAndUnknownNames) {
  Network net(Activation::relu, 0);
  EXPECT_THROW(net.mlp.forward(net.weights, draw({3, 5}, 1)), std::invalid_argument);
  EXPECT_THROW(net.weights["fc4.weight"], std::invalid_argument);
}

}  // namespace
}  // namespace gradview
