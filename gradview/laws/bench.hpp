// Inside the laws: one projector on one matrix, with what the laws need around it.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "gradview/laws.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview::laws {

constexpr double kEps = std::numeric_limits<Real>::epsilon();
constexpr std::uint64_t kSeed = 20230703;
constexpr std::size_t kSteps = 10000;  // of the runs, as the methods are told

using Wrap = std::function<std::unique_ptr<Projector>(std::unique_ptr<Projector>)>;

inline Factors map(Factors f, const std::function<void(Matrix&)>& change) {
  for (Matrix& factor : f) change(factor);
  return f;
}
inline Factors times(const Factors& f, double s) {
  return map(f, [s](Matrix& a) { scale(a, s); });
}
inline double inner(const Factors& a, const Factors& b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) sum += dot(a[k], b.at(k));
  return sum;
}
inline double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }
inline double norm(const Factors& f) { return std::sqrt(inner(f, f)); }

// One projector on one matrix, with what the laws need around it.
class Bench {
 public:
  Bench(const Spec& spec, Shape shape, const Wrap& wrap, std::uint64_t seed = kSeed)
      : spec_(spec),
        wrap_(wrap),
        seed_(seed),
        start(draw(shape, 1)),
        weight(start),
        g(draw(shape, 2)) {
    projector = make();
    begin(*projector, g);
  }

  // What the optimizer does before the first project.
  void begin(Projector& p, const Matrix& gradient) const {
    p.start(Gradient::dense(gradient), site(0));
    p.refresh(Gradient::dense(gradient), site(0));
  }

  std::unique_ptr<Projector> make() const {
    auto made = make_projector(spec_, site(0));
    return wrap_ ? wrap_(std::move(made)) : std::move(made);
  }
  Site site(std::size_t step) const {
    return {.name = "laws.weight", .weight = weight, .seed = seed_, .step = step, .steps = kSteps};
  }
  Matrix draw(Shape shape, std::size_t which) const {
    return normal(shape, 0.5, Stream(seed_, Purpose::test, "laws", which));
  }
  // A random change of the factors, of length about `size`.
  Factors change(double size, std::size_t which = 10) const {
    Factors u = projector->project(Gradient(shape_of(weight)), weight);
    for (Matrix& factor : u) factor = draw(shape_of(factor), which++);
    const double length = norm(u);
    return length > 0 ? times(u, size / length) : u;
  }
  void retract(const Factors& u, Matrix& w) {
    const Gradient none(shape_of(weight));
    projector->retract({none, projector->project(none, weight), u, 1}, &w);
  }
  void leave_the_start() { retract(change(2, 20), weight); }  // where u = 0 hides a fault
  Factors theta() const {
    Factors now = projector->factors();
    return now.empty() ? times(change(1), 0) : now;
  }
  double entry(const Factors& at, std::size_t i, std::size_t j) const {
    return projector->entry(at, start, i, j);
  }

 private:
  Spec spec_;
  Wrap wrap_;
  std::uint64_t seed_;

 public:
  Matrix start, weight, g;  // W₀, W, G
  std::unique_ptr<Projector> projector;
};

constexpr Shape kShapes[] = {{11, 7}, {6, 13}, {8, 8}};  // tall, wide, square

Verdict judge(Law law, const Spec& spec, const Wrap& wrap);

}  // namespace gradview::laws
