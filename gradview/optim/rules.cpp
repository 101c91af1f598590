#include "gradview/optim/rules.hpp"

#include <cmath>

namespace gradview {

Moments Sgd::start(Shape shape) const {
  Moments moments;
  if (momentum > 0) moments.first = zeros(shape);
  moments.beta1 = momentum;
  return moments;
}

Moments Adam::start(Shape shape) const {
  Moments moments;
  if (beta1 > 0) moments.first = zeros(shape);
  moments.second = zeros(shape);
  moments.beta1 = beta1;
  moments.beta2 = beta2;
  moments.newest = 1 - beta1;
  return moments;
}

void Sgd::operator()(Matrix& g, Moments& moments, const Matrix&) const {
  const bool first = moments.step++ == 0;
  if (momentum == 0) return;
  const auto mu = static_cast<Real>(momentum);
  Real* direction = g.data();
  Real* b = moments.first.data();
  for (std::size_t i = 0; i < g.size(); ++i) {
    b[i] = first ? direction[i] : mu * b[i] + direction[i];
    direction[i] = nesterov ? direction[i] + mu * b[i] : b[i];
  }
}

void Adam::operator()(Matrix& g, Moments& moments, const Matrix&) const {
  const auto t = static_cast<double>(++moments.step);
  const auto b1 = static_cast<Real>(beta1);
  const auto b2 = static_cast<Real>(beta2);
  const auto rest1 = static_cast<Real>(1 - beta1);
  const auto rest2 = static_cast<Real>(1 - beta2);
  const auto first_scale = static_cast<Real>(1 / (1 - std::pow(beta1, t)));
  const auto root_scale = static_cast<Real>(1 / std::sqrt(1 - std::pow(beta2, t)));
  const auto e = static_cast<Real>(eps);
  Real* direction = g.data();
  Real* v = moments.second.data();
  if (beta1 == 0) {
    for (std::size_t i = 0; i < g.size(); ++i) {
      v[i] = b2 * v[i] + rest2 * direction[i] * direction[i];
      direction[i] /= std::sqrt(v[i]) * root_scale + e;
    }
    return;
  }
  Real* m = moments.first.data();
  for (std::size_t i = 0; i < g.size(); ++i) {
    m[i] = b1 * m[i] + rest1 * direction[i];
    v[i] = b2 * v[i] + rest2 * direction[i] * direction[i];
    direction[i] = first_scale * m[i] / (std::sqrt(v[i]) * root_scale + e);
  }
}

}  // namespace gradview
