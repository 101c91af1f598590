#include "gradview/experiments/expressivity/fitting.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/linalg.hpp"
#include "gradview/experiments/expressivity/minimise.hpp"
#include "gradview/projections/captured.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// S with S Sᵀ = Σ: the eigenvectors that the inputs reach, each times the root of its eigenvalue.
Matrix root(const Matrix& sigma) {
  const SymmetricEigen eigen = symmetric_eigen(sigma);
  const std::size_t n = eigen.values.size();
  std::size_t first = 0;
  while (first < n && eigen.values[first] <= 1e-13 * eigen.values[n - 1]) ++first;
  Matrix s = columns(eigen.q, first, n - first);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = first; k < n; ++k) {
      s(i, k - first) *= static_cast<Real>(std::sqrt(eigen.values[k]));
    }
  }
  return s;
}

double tail(const std::vector<double>& singular, std::size_t first) {
  double sum = 0;
  for (std::size_t k = first; k < singular.size(); ++k) sum += singular[k] * singular[k];
  return sum;
}

// The rank of a method whose ΔW is c u v with both factors free, 0 where it is something else.
std::size_t free_product_rank(const Projector& projector, const Factors& theta, Shape shape) {
  if (theta.size() != 2) return 0;
  const std::size_t r = theta[1].shape()[0];
  if (shape_of(theta[0]) != Shape{shape.rows, r} || shape_of(theta[1]) != Shape{r, shape.cols}) {
    return 0;
  }
  const Factors probe{normal(shape_of(theta[0]), 1, Stream(1, Purpose::test, "u")),
                      normal(shape_of(theta[1]), 1, Stream(1, Purpose::test, "v"))};
  const Matrix product = matmul(probe[0], probe[1]);
  const Matrix start = zeros(shape);
  const double c = projector.entry(probe, start, 0, 0) / product(0, 0);
  for (std::size_t i = 0; i < shape.rows; ++i) {
    const std::size_t j = i % shape.cols;
    const double entry = projector.entry(probe, start, i, j);
    if (!(std::abs(entry - c * product(i, j)) < 1e-4 * std::abs(c))) return 0;
  }
  return r;
}

// ½‖(D − ΔW(θ)) S‖² and its gradient, as a function of all factors in one vector. The projector
// stands where it was last evaluated.
class Distance {
 public:
  Distance(Projector& projector, const Goal& goal)
      : projector_(projector), goal_(goal), change_(zeros(shape_of(goal.change))), theta_() {
    theta_ = projector.factors();
    const Matrix start = zeros(shape_of(change_));
    for (std::size_t i = 0; i < change_.shape()[0]; ++i) {
      for (std::size_t j = 0; j < change_.shape()[1]; ++j)
        change_(i, j) = static_cast<Real>(projector.entry(theta_, start, i, j));
    }
  }

  Vector here() const {
    Vector x;
    for (const Matrix& factor : theta_) x.insert(x.end(), factor.begin(), factor.end());
    return x;
  }

  double operator()(const Vector& x, Vector& gradient) {
    move_to(x);
    Matrix rest = difference(goal_.change, change_);
    Matrix weighted = goal_.sigma.size() > 0 ? matmul(rest, goal_.sigma) : rest;
    const double value = dot(rest, weighted) / 2;
    scale(weighted, -1);
    std::size_t k = 0;
    for (const Matrix& part : projector_.project(Gradient::dense(std::move(weighted)), change_)) {
      for (const Real each : part) gradient[k++] = each;
    }
    return value;
  }

 private:
  void move_to(const Vector& x) {
    Factors way = theta_;
    std::size_t k = 0;
    for (std::size_t f = 0; f < theta_.size(); ++f) {
      for (std::size_t i = 0; i < theta_[f].size(); ++i) {
        way[f].data()[i] = static_cast<Real>(x[k++]) - theta_[f].data()[i];
      }
      axpy(theta_[f], 1, way[f]);
    }
    const Gradient none(shape_of(change_));
    projector_.retract({.gradient = none, .projected = way, .direction = way, .lr = 1}, &change_);
  }

  Projector& projector_;
  const Goal& goal_;
  Matrix change_;  // ΔW(θ)
  Factors theta_;
};

// From the method's own start at first, later with all factors alive; its frozen state stays.
Minimum search(const Spec& spec, const Goal& goal, const FitSettings& settings,
               std::size_t restart) {
  const Matrix start = zeros(shape_of(goal.change));
  const auto projector =
      make_projector(spec, Site{.name = "w", .weight = start, .seed = settings.seed});
  if (restart > 0) {
    std::size_t f = 0;
    projector->fields([&](std::string_view, Matrix& value, Role role) {
      if (role != Role::trained) return;
      const Stream rng(settings.seed + restart, Purpose::test, "start", f++);
      value = normal(shape_of(value), 1 / std::sqrt(static_cast<double>(value.shape()[1])), rng);
    });
  }
  Distance distance(*projector, goal);
  return minimise([&](const Vector& x, Vector& gradient) { return distance(x, gradient); },
                  distance.here(),
                  {.iterations = settings.iterations,
                   .tolerance = settings.tolerance,
                   .floor = 5e-15 * goal.energy});
}

Fit searched(const Spec& spec, const Goal& goal, const FitSettings& settings) {
  Fit out{-1, 2, "search", 0};
  for (std::size_t restart = 0; restart < settings.restarts; ++restart) {
    const Minimum found = search(spec, goal, settings, restart);
    const double captured = 1 - 2 * found.value / goal.energy;
    if (captured > out.captured) out.steps = found.iterations;
    out.captured = std::max(out.captured, captured);
    out.least = std::min(out.least, captured);
  }
  return out;
}

// Rows of length n that hold J_n = [I_r I_r …], cut at n.
Matrix block_rows(std::size_t rank, std::size_t n) {
  Matrix j = zeros({rank, n});
  for (std::size_t column = 0; column < n; ++column) j(column % rank, column) = 1;
  return j;
}

// a (I − E), E the orthoprojector onto the rows of `onto`.
Matrix outside(Matrix a, const Matrix& onto) {
  const Matrix q = orthonormal_rows(onto);
  add_matmul(a, -1, matmul_nt(a, q), q);
  return a;
}

}  // namespace

Goal make_goal(Matrix change, Matrix sigma) {
  Goal goal{std::move(change), std::move(sigma), {}, 0};
  goal.seen = goal.sigma.size() > 0 ? matmul(goal.change, root(goal.sigma)) : goal.change;
  goal.energy = squared_norm(goal.seen);
  return goal;
}

Fit fit(const Spec& spec, const Goal& goal, const FitSettings& settings) {
  const Shape shape = shape_of(goal.change);
  const Matrix start = zeros(shape);
  const auto projector =
      make_projector(spec, Site{.name = "w", .weight = start, .seed = settings.seed});
  if (projector->refresh_every() > 0) {
    throw std::invalid_argument("'" + to_string(spec) +
                                "' moves its subspace: it has no fixed set of changes to fit with");
  }
  if (count_numbers(spec, shape).trained == 0) {
    throw std::invalid_argument("'" + to_string(spec) + "' trains no number of a matrix");
  }
  if (projector->linear() && !settings.search) {
    const double captured = captured_energy(*projector, Gradient::dense(goal.change), start,
                                            goal.sigma.size() > 0 ? &goal.sigma : nullptr);
    return {captured, captured, "linear", 0};
  }
  const std::size_t rank = free_product_rank(*projector, projector->factors(), shape);
  if (rank > 0 && !settings.search) {
    const double captured = 1 - tail(svd(goal.seen).singular, rank) / goal.energy;
    return {captured, captured, "svd", 0};
  }
  return searched(spec, goal, settings);
}

std::optional<Sized> sized_for(const Spec& spec, Shape shape, std::size_t budget) {
  const auto free = [&](const char* key) {
    const auto& options = find_projector(spec.name).options;
    return spec.find(key) == nullptr &&
           std::any_of(options.begin(), options.end(),
                       [&](const OptionHelp& option) { return option.key == key; });
  };
  std::optional<Sized> best;
  const auto sweep_ranks = [&](const Spec& base) {
    std::size_t last = 0;
    for (std::size_t rank = 1; rank <= budget; ++rank) {
      Spec with = free("rank") ? with_options(base, {{"rank", std::to_string(rank)}}) : base;
      const std::size_t numbers = count_numbers(with, shape).trained;
      if (numbers > budget || numbers == last) break;  // or capped
      last = numbers;
      if (!best || numbers > best->numbers) best = Sized{std::move(with), numbers};
    }
  };
  if (!free("factor")) {
    sweep_ranks(spec);
    return best;
  }
  for (std::size_t factor = std::min(shape.rows, shape.cols); factor > 0; --factor) {
    if (shape.rows % factor == 0 && shape.cols % factor == 0) {
      sweep_ranks(with_options(spec, {{"factor", std::to_string(factor)}}));
    }
  }
  return best;
}

double additive_captures(const Goal& goal, std::size_t rank) {
  const auto [m, n] = shape_of(goal.change);
  const Matrix right = block_rows(rank, n);
  const Matrix reached = goal.sigma.size() > 0 ? matmul(right, root(goal.sigma)) : right;
  const Matrix rest = outside(goal.seen, reached);
  return 1 - squared_norm(outside(transpose(rest), block_rows(rank, m))) / goal.energy;
}

double additive_captures_of_any(Shape shape, std::size_t rank) {
  const auto r = static_cast<double>(rank);
  return 1 - (1 - r / static_cast<double>(shape.rows)) * (1 - r / static_cast<double>(shape.cols));
}

}  // namespace gradview
