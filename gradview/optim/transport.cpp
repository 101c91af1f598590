#include "gradview/optim/transport.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/linalg.hpp"

namespace gradview {
namespace {

// left · a · right
Matrix moved(const Matrix& a, const Matrix& left, const Matrix& right) {
  if (left.size() == 0) return right.size() == 0 ? a : matmul(a, right);
  return right.size() == 0 ? matmul(left, a) : matmul(matmul(left, a), right);
}

Matrix squared(Matrix a) {
  for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] *= a.data()[i];
  return a;
}

void clear(Matrix& a) { std::fill(a.data(), a.data() + a.size(), Real{0}); }

void rotate(const Change& change, Moments& moments) {
  Matrix left = change.left;
  Matrix right = change.right;
  scale(left, change.contraction);
  scale(right, change.contraction);
  const bool has_first = moments.first.size() > 0;
  const double ratio =  // of v/(1 − β₂ᵗ) − (m/(1 − β₁ᵗ))² = (v − ratio · m²)/(1 − β₂ᵗ)
      moments.second_weight() / (moments.first_weight() * moments.first_weight());
  Matrix variance = moments.second;
  if (has_first) {
    if (variance.size() > 0) axpy(variance, -ratio, squared(moments.first));
    moments.first = moved(moments.first, left, right);
  }
  left = squared(std::move(left));
  right = squared(std::move(right));
  if (moments.row.size() > 0) moments.row = moved(moments.row, left, {});
  if (moments.column.size() > 0) moments.column = moved(moments.column, {}, right);
  if (variance.size() == 0) return;
  moments.second = moved(variance, left, right);
  if (has_first) axpy(moments.second, ratio, squared(moments.first));
  for (std::size_t i = 0; i < moments.second.size(); ++i) {
    moments.second.data()[i] = std::abs(moments.second.data()[i]);
  }
}

}  // namespace

void transport_moments(Transport how, const Change& change, Moments& moments) {
  switch (how) {
    case Transport::automatic:
      throw std::invalid_argument("transport_moments: auto is for a projector to resolve");
    case Transport::keep:
      return;
    case Transport::project:
      if (moments.first.size() > 0) {
        moments.first = moved(moments.first, change.left, change.right);
      }
      return;
    case Transport::rotate:
      rotate(change, moments);
      return;
    case Transport::reset:
      moments.step = 0;
      for (Matrix* a : {&moments.first, &moments.second, &moments.row, &moments.column}) clear(*a);
  }
}

}  // namespace gradview
