#include "gradview/experiments/tasks/parallel.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {

void ParallelOptions::declare(OptionSet& o) {
  o.count("matrices", matrices, {.least = 1, .most = 100}, "layers side by side");
  o.count("needy", needy, {.least = 1, .most = 100}, "of them that have to change");
  o.count("planted", planted, {.least = 1}, "rank of their change, singular values falling to 1/2");
  o.count("rows", rows, {.least = 2}, "outputs m");
  o.count("cols", cols, {.least = 2}, "inputs n of a layer; every other one has 5/3 of them");
  o.number("noise", noise, {.least = 0}, "σ of the targets");
  o.count("examples", examples, {.least = 1}, "training inputs");
}

std::string ParallelOptions::name(std::size_t k) const { return fmt::format("w{}.weight", k + 1); }

bool ParallelOptions::is_needy(std::size_t k) const { return (k * needy) % matrices < needy; }

Shape ParallelOptions::shape(std::size_t k) const {
  return {rows, k % 2 == 0 ? cols : cols * 5 / 3};
}

std::vector<double> ParallelOptions::singular_values() const {
  std::vector<double> out;
  for (std::size_t k = 0; k < planted; ++k) {
    const double fall = planted > 1 ? static_cast<double>(k) / static_cast<double>(planted - 1) : 0;
    out.push_back(1 - fall / 2);
  }
  return out;
}

double ParallelOptions::explained_by(std::size_t rank) const {
  const std::vector<double> values = singular_values();
  double kept = 0, all = 0;
  for (std::size_t k = 0; k < values.size(); ++k) {
    all += values[k] * values[k];
    if (k < rank) kept += values[k] * values[k];
  }
  return kept / all;
}

namespace {

class Parallel final : public Task {
 public:
  Parallel(const ParallelOptions& o, std::uint64_t seed) : o_(o), seed_(seed) {
    for (std::size_t k = 0; k < o.matrices; ++k) {
      const Shape shape = o.shape(k);
      const auto stream = [&](const char* what) {
        return Stream(seed, Purpose::model, fmt::format("{} {}", what, o.name(k)));
      };
      const double deviation = 1 / std::sqrt(static_cast<double>(shape.cols * o.matrices));
      Matrix w = normal(shape, deviation, stream("start"));
      start_.add(o.name(k), w);
      if (o.is_needy(k)) {
        const Matrix left = haar_rows(o.planted, shape.rows, stream("left"));
        Matrix right = haar_rows(o.planted, shape.cols, stream("right"));
        for (std::size_t i = 0; i < o.planted; ++i) {
          for (std::size_t j = 0; j < shape.cols; ++j) {
            right(i, j) *= static_cast<Real>(o.singular_values()[i]);
          }
        }
        add_matmul_tn(w, 1, left, right);
      }
      target_.add(o.name(k), std::move(w));
    }
    to_explain_ = distance(start_, target_);
  }

  const Weights& start() const override { return start_; }
  std::size_t examples() const override { return o_.examples; }

  Score loss_and_gradients(const Weights& weights, std::span<const std::size_t> batch,
                           const Training&, const Collect& collect) const override {
    Matrix off = noise(batch);  // y* − y
    std::vector<SharedMatrix> inputs;
    for (std::size_t k = 0; k < o_.matrices; ++k) {
      const std::string name = o_.name(k);
      inputs.push_back(share(draw(name, batch, o_.shape(k).cols)));
      axpy(off, 1, matmul_nt(*inputs[k], difference(target_[name], weights[name])));
    }
    const double count = static_cast<double>(batch.size());
    const double loss = squared_norm(off) / (2 * count);
    scale(off, -1 / count);
    const SharedMatrix delta = share(std::move(off));
    for (std::size_t k = 0; k < o_.matrices; ++k) {
      collect(o_.name(k), Gradient::outer(delta, inputs[k]));
    }
    return {loss, explained(weights, target_)};
  }

  Score evaluate(const Weights& weights, Split split) const override {
    const Weights& goal = split == Split::old ? start_ : target_;
    return {distance(weights, goal) / 2, explained(weights, goal)};
  }

  // A product of rank r can hold the r largest singular values of each change.
  std::optional<double> best_accuracy(const Spec& projector) const override {
    const Matrix& w = start_[o_.name(0)];
    const auto made = make_projector(projector, Site{o_.name(0), w, seed_});
    const Factors theta = made->factors();
    if (made->linear() || theta.size() != 2 || !made->product()) return std::nullopt;
    return o_.explained_by(theta[1].shape()[0]);
  }

 private:
  Matrix draw(const std::string& what, std::span<const std::size_t> batch, std::size_t n) const {
    Matrix x = uninitialized({batch.size(), n});
    for (std::size_t t = 0; t < batch.size(); ++t) {
      Stream rng(seed_, Purpose::data, what, batch[t]);
      for (std::size_t j = 0; j < n; ++j) x(t, j) = static_cast<Real>(rng.normal());
    }
    return x;
  }
  Matrix noise(std::span<const std::size_t> batch) const {
    Matrix e = draw("noise", batch, o_.rows);
    scale(e, o_.noise);
    return e;
  }
  static double distance(const Weights& a, const Weights& b) {
    double squares = 0;
    for (const auto& [name, value] : a) squares += squared_norm(difference(value, b[name]));
    return squares;
  }
  double explained(const Weights& weights, const Weights& goal) const {
    return 1 - distance(weights, goal) / to_explain_;
  }

  ParallelOptions o_;
  std::uint64_t seed_;
  Weights start_, target_;
  double to_explain_ = 0;  // Σ ‖D_k‖²
};

TaskFamily prepare(const Spec& spec, const TaskContext& context) {
  const auto o = read_options<ParallelOptions>(spec);
  if (!context.shift.empty() || !context.data.empty()) {
    throw std::invalid_argument("--shift and --data have no meaning for the task parallel");
  }
  if (o.needy > o.matrices || o.planted > std::min(o.rows, o.cols)) {
    throw std::invalid_argument(
        "parallel: needy is at most matrices, and planted at most min(rows, cols)");
  }
  TaskFamily family;
  family.make = [o](std::uint64_t seed) { return std::make_shared<Parallel>(o, seed); };
  family.record = {{"data", "made from the seed"}};
  return family;
}

}  // namespace

TaskKind parallel_task() {
  return {"parallel", "linear layers side by side, of which only some need to change",
          describe_options<ParallelOptions>("parallel"), prepare};
}

}  // namespace gradview
