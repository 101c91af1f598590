#include "gradview/experiments/expressivity/minimise.hpp"

#include <cmath>
#include <deque>
#include <limits>
#include <numeric>

namespace gradview {
namespace {

double inner(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Vector plus(Vector y, double s, const Vector& x) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += s * x[i];
  return y;
}

struct Pair {  // of successive points and of their gradients, the differences
  Vector s, y;
  double curvature;  // ⟨s, y⟩ > 0
};

// −H g, H the inverse Hessian that the pairs tell of.
Vector descent(const std::deque<Pair>& pairs, const Vector& gradient) {
  Vector q(gradient.size());
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = -gradient[i];
  Vector lengths(pairs.size());
  for (std::size_t k = pairs.size(); k-- > 0;) {
    lengths[k] = inner(pairs[k].s, q) / pairs[k].curvature;
    q = plus(std::move(q), -lengths[k], pairs[k].y);
  }
  const double scale = pairs.empty()
                           ? 1 / std::sqrt(inner(gradient, gradient))
                           : pairs.back().curvature / inner(pairs.back().y, pairs.back().y);
  for (double& each : q) each *= scale;
  for (std::size_t k = 0; k < pairs.size(); ++k) {
    const double back = inner(pairs[k].y, q) / pairs[k].curvature;
    q = plus(std::move(q), lengths[k] - back, pairs[k].s);
  }
  return q;
}

struct Point {
  Vector x, gradient;
  double value;
};

// A point along the direction that lies low enough and flat enough; the last tried where none was
// found in 40 bisections.
Point search(const Function& function, const Point& from, const Vector& direction, double slope) {
  double low = 0;
  double high = std::numeric_limits<double>::infinity();
  double length = 1;
  Point to;
  for (int tries = 0; tries < 40; ++tries) {
    to.x = plus(from.x, length, direction);
    to.gradient.assign(from.x.size(), 0);
    to.value = function(to.x, to.gradient);
    if (!(to.value <= from.value + 1e-4 * length * slope)) {
      high = length;
    } else if (inner(to.gradient, direction) < 0.9 * slope) {
      low = length;
    } else {
      break;
    }
    length = std::isinf(high) ? 2 * low : (low + high) / 2;
  }
  return to;
}

}  // namespace

Minimum minimise(const Function& function, Vector start, const MinimiseSettings& settings) {
  Point now{std::move(start), {}, 0};
  now.gradient.assign(now.x.size(), 0);
  now.value = function(now.x, now.gradient);
  std::deque<Pair> pairs;
  std::vector<double> values{now.value};
  std::size_t iteration = 0;
  for (; iteration < settings.iterations && now.value > settings.floor; ++iteration) {
    Vector direction = descent(pairs, now.gradient);
    double slope = inner(direction, now.gradient);
    if (!(slope < 0)) {
      if (pairs.empty()) break;  // the gradient is zero
      pairs.clear();
      continue;
    }
    Point next = search(function, now, direction, slope);
    if (!(next.value < now.value)) {
      if (pairs.empty()) break;
      pairs.clear();
      continue;
    }
    Pair pair{plus(next.x, -1, now.x), plus(next.gradient, -1, now.gradient), 0};
    pair.curvature = inner(pair.s, pair.y);
    if (pair.curvature > 1e-14 * inner(pair.y, pair.y)) pairs.push_back(std::move(pair));
    if (pairs.size() > settings.memory) pairs.pop_front();
    now = std::move(next);
    values.push_back(now.value);
    constexpr std::size_t kPatience = 20;
    if (values.size() > kPatience &&
        values[values.size() - 1 - kPatience] - now.value < settings.tolerance * now.value) {
      break;
    }
  }
  return {std::move(now.x), now.value, iteration};
}

}  // namespace gradview
