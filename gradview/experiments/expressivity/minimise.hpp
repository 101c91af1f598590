// Minimisation of a smooth function of a few thousand numbers.
//
// L-BFGS: Liu, Nocedal: On the Limited Memory BFGS Method for Large Scale Optimization,
// Mathematical Programming 45, 1989. The step length satisfies the weak Wolfe conditions, found by
// bisection (Lewis, Overton: Nonsmooth optimization via quasi-Newton methods, 2013).
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace gradview {

using Vector = std::vector<double>;
// The value at x; its gradient, of the same length, goes to the second argument.
using Function = std::function<double(const Vector& x, Vector& gradient)>;

struct MinimiseSettings {
  std::size_t iterations = 500, memory = 20;
  double tolerance = 1e-9;  // ends where 20 iterations gained less than this part of the value
  double floor = 0;         // ends where the value is below
};

struct Minimum {
  Vector x;
  double value;
  std::size_t iterations;
};

Minimum minimise(const Function& function, Vector start, const MinimiseSettings& settings = {});

}  // namespace gradview
