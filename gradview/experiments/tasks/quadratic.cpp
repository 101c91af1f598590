// quadratic: an ill-conditioned quadratic with noisy gradients, its optimum and loss exact.
//
//     L = ½ tr(E Σ Eᵀ),  E = W − W*,      G = E Σ + noise · Z/√(batch size)
//
// Σ = Q diag(λ) Qᵀ with Q of Haar measure and λ from 1 to 1/condition in equal ratios: what a linear
// layer sees whose inputs have covariance Σ. W = 0 at first, W* ~ N(0, I). An example's Z has entries
// of variance one, uniform since normal ones would cost more than the step. Accuracy is 1 − L/L₀.
#include <cmath>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/experiments/task.hpp"

namespace gradview {
namespace {

struct Options {
  std::size_t rows = 32, cols = 32, examples = 100000;
  double condition = 100, noise = 0.02;
  void declare(OptionSet& o) {
    o.count("rows", rows, {.least = 2}, "outputs m");
    o.count("cols", cols, {.least = 2}, "inputs n");
    o.number("condition", condition, {.least = 1}, "largest over smallest curvature");
    o.number("noise", noise, {.least = 0}, "deviation of a gradient's entries, per example");
    o.count("examples", examples, {.least = 1}, "different draws of the noise");
  }
};

class Quadratic final : public Task {
 public:
  Quadratic(const Options& o, std::uint64_t seed) : o_(o), seed_(seed) {
    start_.add("w", zeros({o.rows, o.cols}));
    target_ = normal({o.rows, o.cols}, 1, Stream(seed, Purpose::model, "target"));
    const Matrix q = haar_rows(o.cols, o.cols, Stream(seed, Purpose::model, "axes"));
    Matrix scaled = q;
    for (std::size_t k = 0; k < o.cols; ++k) {
      const double at = static_cast<double>(k) / static_cast<double>(o.cols - 1);
      const double curvature = std::pow(o.condition, -at);
      for (std::size_t j = 0; j < o.cols; ++j) scaled(k, j) *= static_cast<Real>(curvature);
    }
    curvature_ = matmul_tn(q, scaled);
    start_loss_ = loss(start_["w"], target_);
  }

  const Weights& start() const override { return start_; }
  std::size_t examples() const override { return o_.examples; }

  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training&, const Collect& collect) const override {
    const Matrix off = difference(weights["w"], target_);
    Matrix g = matmul(off, curvature_);
    const double value = dot(g, off) / 2;
    const double edge = std::sqrt(3.0) * o_.noise;
    for (const std::size_t example : batch) {
      axpy(g, 1 / static_cast<double>(batch.size()),
           uniform(shape_of(g), -edge, edge, Stream(seed_, Purpose::data, "noise", example)));
    }
    collect("w", Gradient::dense(std::move(g)));
    return {value, 1 - value / start_loss_};
  }
  Score evaluate(const Weights& weights, Split split) const override {
    const double value = loss(weights["w"], split == Split::old ? start_["w"] : target_);
    return {value, 1 - value / start_loss_};
  }

 private:
  double loss(const Matrix& w, const Matrix& goal) const {
    const Matrix off = difference(w, goal);
    return dot(matmul(off, curvature_), off) / 2;
  }

  Options o_;
  std::uint64_t seed_;
  Weights start_;
  Matrix target_, curvature_;
  double start_loss_ = 0;
};

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  const auto o = read_options<Options>(spec);
  if (!context.shift.empty() || !context.data.empty()) {
    throw std::invalid_argument("--shift and --data have no meaning for the task quadratic");
  }
  TaskFamily family;
  family.make = [o](std::uint64_t seed) { return std::make_shared<Quadratic>(o, seed); };
  family.record = {{"data", "made from the seed"}};
  return family;
}

}  // namespace

TaskKind quadratic_task() {
  return {"quadratic", "an ill-conditioned quadratic with noisy gradients",
          describe_options<Options>("quadratic"), prepare};
}

}  // namespace gradview
