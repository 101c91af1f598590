#include "gradview/models/activation.hpp"

#include <cmath>
#include <numbers>

#include "gradview/core/parallel.hpp"
#include "gradview/models/elementary.hpp"

namespace gradview {
namespace {

// Each f has value(z) and slope(z).
struct Relu {
  static Real value(Real z) { return z < 0 ? Real{0} : z; }  // NaN stays NaN
  static Real slope(Real z) { return z > 0 ? Real{1} : Real{0}; }
};

struct Gelu {
  static Real value(Real z) { return z * normal_at(z).cdf; }
  static Real slope(Real z) {
    const Normal at = normal_at(z);
    return at.cdf + z * at.density;
  }
};

struct GeluTanh {  // (1 + tanh u) / 2 = σ(2u)
  static constexpr Real kTwice =
      2 * std::numbers::sqrt2_v<Real> * std::numbers::inv_sqrtpi_v<Real>;  // 2 √(2/π)
  static constexpr Real kCubic = Real(0.044715);
  static Real value(Real z) { return z * sigmoid(kTwice * (z + kCubic * z * z * z)); }
  static Real slope(Real z) {
    const Real s = sigmoid(kTwice * (z + kCubic * z * z * z));
    return s + z * s * (1 - s) * kTwice * (1 + 3 * kCubic * z * z);
  }
};

struct Silu {
  static Real value(Real z) { return z * sigmoid(z); }
  static Real slope(Real z) {
    const Real s = sigmoid(z);
    return s + z * s * (1 - s);
  }
};

struct Tanh {
  static Real value(Real z) { return std::tanh(z); }
  static Real slope(Real z) { return 1 - std::tanh(z) * std::tanh(z); }
};

template <class Use>
void with(Activation kind, const Use& use) {
  switch (kind) {
    case Activation::relu:
      return use(Relu{});
    case Activation::gelu:
      return use(Gelu{});
    case Activation::gelu_tanh:
      return use(GeluTanh{});
    case Activation::silu:
      return use(Silu{});
    case Activation::tanh:
      return use(Tanh{});
  }
}

}  // namespace

void activate(Activation kind, Matrix& z) {
  Real* data = z.data();
  with(kind, [&](auto f) {
    parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) data[i] = f.value(data[i]);
    });
  });
}

Matrix activated(Activation kind, const Matrix& z) {
  Matrix y = uninitialized(shape_of(z));
  const Real* from = z.data();
  Real* to = y.data();
  with(kind, [&](auto f) {
    parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) to[i] = f.value(from[i]);
    });
  });
  return y;
}

void times_derivative(Activation kind, const Matrix& z, Matrix& delta) {
  require_shape("times_derivative", "δ", shape_of(delta), shape_of(z));
  const Real* from = z.data();
  Real* to = delta.data();
  with(kind, [&](auto f) {
    parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) to[i] *= f.slope(from[i]);
    });
  });
}

Matrix gated(Activation kind, const Matrix& z, const Matrix& u) {
  require_shape("gated", "u", shape_of(u), shape_of(z));
  Matrix y = uninitialized(shape_of(z));
  const Real *gate = z.data(), *up = u.data();
  Real* to = y.data();
  with(kind, [&](auto f) {
    parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) to[i] = f.value(gate[i]) * up[i];
    });
  });
  return y;
}

Matrix gated_gradient(Activation kind, const Matrix& z, const Matrix& u, Matrix& delta) {
  require_shape("gated_gradient", "u", shape_of(u), shape_of(z));
  require_shape("gated_gradient", "δ", shape_of(delta), shape_of(z));
  Matrix du = uninitialized(shape_of(z));
  const Real *gate = z.data(), *up = u.data();
  Real *d = delta.data(), *to = du.data();
  with(kind, [&](auto f) {
    parallel_entries(z.size(), [=](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        to[i] = d[i] * f.value(gate[i]);
        d[i] *= up[i] * f.slope(gate[i]);
      }
    });
  });
  return du;
}

}  // namespace gradview
