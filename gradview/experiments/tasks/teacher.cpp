// teacher: linear regression on a teacher whose weights are the student's plus a planted change of
// rank k.
//
//     y = (W₀ + D) x,  x ~ N(0, I),  L = ½ E‖(W − W₀ − D) x‖² = ½‖W − W₀ − D‖_F²
//
// The whole problem is known in closed form: evaluation is exact, accuracy is 1 − ‖W − W₀ −
// D‖²/‖D‖² (R²), and the best that a method can reach follows from D: Eckart–Young for a product of
// rank r, the energy of D inside the tangent space for a linear ΔW, all of it where fresh frames
// come every step.
#include <algorithm>
#include <cmath>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/experiments/task.hpp"
#include "gradview/models/linear.hpp"
#include "gradview/projections/captured.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

struct Options {
  std::size_t rows = 64, cols = 48, planted = 4, examples = 100000;
  void declare(OptionSet& o) {
    o.count("rows", rows, {.least = 2}, "outputs m");
    o.count("cols", cols, {.least = 2}, "inputs n");
    o.count("planted", planted, {.least = 1},
            "rank k of the change D, singular values falling to 1/2");
    o.count("examples", examples, {.least = 1}, "training inputs");
  }
};

class Teacher final : public Task {
 public:
  Teacher(const Options& o, std::uint64_t seed) : o_(o), seed_(seed) {
    const auto stream = [&](const char* name) { return Stream(seed, Purpose::model, name); };
    const double deviation = 1 / std::sqrt(static_cast<double>(o.cols));
    start_.add("w.weight", normal({o.rows, o.cols}, deviation, stream("w")));
    start_.add("w.bias", zeros({1, o.rows}));
    const Matrix left = haar_rows(o.planted, o.rows, stream("left"));
    Matrix right = haar_rows(o.planted, o.cols, stream("right"));
    for (std::size_t k = 0; k < o.planted; ++k) {
      const double fall =
          o.planted > 1 ? static_cast<double>(k) / static_cast<double>(o.planted - 1) : 0;
      for (std::size_t j = 0; j < o.cols; ++j) right(k, j) *= static_cast<Real>(1 - fall / 2);
    }
    change_ = matmul_tn(left, right);
    target_ = start_["w.weight"];
    axpy(target_, 1, change_);
  }

  const Weights& start() const override { return start_; }
  std::size_t examples() const override { return o_.examples; }

  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training&, const Collect& collect) const override {
    Matrix x = uninitialized({batch.size(), o_.cols});
    for (std::size_t t = 0; t < batch.size(); ++t) {
      Stream rng(seed_, Purpose::data, "x", batch[t]);
      for (std::size_t j = 0; j < o_.cols; ++j) x(t, j) = static_cast<Real>(rng.normal());
    }
    const SharedMatrix inputs = share(std::move(x));
    Matrix delta;
    const double loss =
        mean_squared_error(linear_forward(*inputs, weights["w.weight"], weights["w.bias"]),
                           matmul_nt(*inputs, target_), &delta);
    const SharedMatrix shared = share(std::move(delta));
    collect("w.weight", Gradient::outer(shared, inputs));
    collect("w.bias", Gradient::dense(linear_bias_gradient(*shared)));
    return score(weights, loss, target_);
  }

  Score evaluate(const Weights& weights, Split split) const override {
    const Matrix& goal = split == Split::old ? start_["w.weight"] : target_;
    return score(weights, population_loss(weights, goal), goal);
  }

  std::optional<double> best_accuracy(const Spec& projector) const override {
    const Matrix& w = start_["w.weight"];
    const auto made = make_projector(projector, Site{"w.weight", w, seed_});
    if (made->refresh_every() > 0) return 1;
    if (made->linear()) {
      const double best = captured_energy(*made, Gradient::dense(change_), w);
      return std::isnan(best) ? 0 : best;
    }
    const Factors theta = made->factors();
    if (theta.size() != 2 || !made->product()) return std::nullopt;
    Matrix goal = change_;  // of u v: D + ΔW(θ₀), whose best approximation of rank r leaves the
                            // small singular values
    for (std::size_t i = 0; i < o_.rows; ++i) {
      for (std::size_t j = 0; j < o_.cols; ++j)
        goal(i, j) += static_cast<Real>(made->entry(theta, w, i, j));
    }
    const std::vector<double> singular = svd(goal).singular;
    double left = 0;
    for (std::size_t k = theta[1].shape()[0]; k < singular.size(); ++k)
      left += singular[k] * singular[k];
    return 1 - left / squared_norm(change_);
  }

 private:
  double population_loss(const Weights& weights, const Matrix& goal) const {
    return (squared_norm(difference(weights["w.weight"], goal)) + squared_norm(weights["w.bias"])) /
           2;
  }
  Score score(const Weights& weights, double loss, const Matrix& goal) const {
    return {loss, 1 - 2 * population_loss(weights, goal) / squared_norm(change_)};
  }

  Options o_;
  std::uint64_t seed_;
  Weights start_;
  Matrix change_, target_;  // D, W₀ + D
};

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  const auto o = read_options<Options>(spec);
  if (!context.shift.empty() || !context.data.empty()) {
    throw std::invalid_argument("--shift and --data have no meaning for the task teacher");
  }
  if (o.planted > std::min(o.rows, o.cols)) {
    throw std::invalid_argument("option 'planted' of teacher is " + std::to_string(o.planted) +
                                ", expected at most min(rows, cols)");
  }
  TaskFamily family;
  family.make = [o](std::uint64_t seed) { return std::make_shared<Teacher>(o, seed); };
  family.record = {{"data", "made from the seed"}};
  return family;
}

}  // namespace

TaskKind teacher_task() {
  return {"teacher", "linear regression with a planted change of low rank, its optimum known",
          describe_options<Options>("teacher"), prepare};
}

}  // namespace gradview
