#include "gradview/optim/transport.hpp"

#include <algorithm>
#include <cmath>

namespace gradview {
namespace {

Matrix moved(const Matrix& a, const Matrix& basis, Change::Side side) {
  return side == Change::Side::right ? matmul(a, basis) : matmul(basis, a);
}

Matrix squared(Matrix a) {
  for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] *= a.data()[i];
  return a;
}

void clear(Matrix& a) { std::fill(a.data(), a.data() + a.size(), Real{0}); }

void rotate(const Change& change, Moments& moments) {
  Matrix basis = change.basis;
  scale(basis, change.contraction);
  const bool has_first = moments.first.size() > 0;
  Matrix variance = moments.second;
  if (has_first) {
    if (variance.size() > 0) axpy(variance, -1, squared(moments.first));
    moments.first = moved(moments.first, basis, change.side);
  }
  if (variance.size() == 0) return;
  moments.second = moved(variance, squared(basis), change.side);
  if (has_first) axpy(moments.second, 1, squared(moments.first));
  for (std::size_t i = 0; i < moments.second.size(); ++i) {
    moments.second.data()[i] = std::abs(moments.second.data()[i]);
  }
}

}  // namespace

void transport_moments(Transport how, const Change& change, Moments& moments) {
  if (moments.size() == 0 || how == Transport::keep) return;
  if (how == Transport::automatic || how == Transport::reset) {
    moments.step = 0;
    clear(moments.first);
    clear(moments.second);
  } else if (how == Transport::rotate) {
    rotate(change, moments);
  } else if (moments.first.size() > 0) {
    moments.first = moved(moments.first, change.basis, change.side);
  }
}

}  // namespace gradview
