#include "gradview/models/activation.hpp"

#include <cmath>
#include <numbers>

#include "gradview/core/parallel.hpp"

namespace gradview {
namespace {

Real relu(Real z) { return z < 0 ? Real{0} : z; }  // NaN stays NaN

Real normal_cdf(Real z) { return Real{0.5} * std::erfc(-z / std::numbers::sqrt2_v<Real>); }
Real normal_density(Real z) {
  return std::exp(Real{-0.5} * z * z) * std::numbers::inv_sqrtpi_v<Real> /
         std::numbers::sqrt2_v<Real>;
}

template <class Function>
void each(const Matrix& z, Matrix& out, Function f) {
  const Real* in = z.data();
  Real* to = out.data();
  parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) to[i] = f(in[i], to[i]);
  });
}

}  // namespace

void activate(Activation kind, Matrix& z) {
  switch (kind) {
    case Activation::relu:
      return each(z, z, [](Real x, Real) { return relu(x); });
    case Activation::gelu:
      return each(z, z, [](Real x, Real) { return x * normal_cdf(x); });
    case Activation::tanh:
      return each(z, z, [](Real x, Real) { return std::tanh(x); });
  }
}

void times_derivative(Activation kind, const Matrix& z, Matrix& delta) {
  require_shape("times_derivative", "δ", shape_of(delta), shape_of(z));
  switch (kind) {
    case Activation::relu:
      return each(z, delta, [](Real x, Real d) { return x > 0 ? d : Real{0}; });
    case Activation::gelu:
      return each(z, delta,
                  [](Real x, Real d) { return d * (normal_cdf(x) + x * normal_density(x)); });
    case Activation::tanh:
      return each(z, delta, [](Real x, Real d) { return d * (1 - std::tanh(x) * std::tanh(x)); });
  }
}

}  // namespace gradview
