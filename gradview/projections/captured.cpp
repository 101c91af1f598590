#include "gradview/projections/captured.hpp"

#include <limits>

namespace gradview {
namespace {

double inner(const Factors& a, const Factors& b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) sum += dot(a[k], b[k]);
  return sum;
}

void add(Factors& y, double s, const Factors& x) {
  for (std::size_t k = 0; k < y.size(); ++k) axpy(y[k], s, x[k]);
}

}  // namespace

double captured_energy(const Projector& projector, const Gradient& g, const Matrix& w) {
  const double energy = squared_norm(g);
  if (!(energy > 0)) return std::numeric_limits<double>::quiet_NaN();
  const Factors right = projector.project(g, w);  // JᵀG
  Factors residual = right;
  Factors direction = residual;
  double captured = 0;  // ⟨u, JᵀG⟩ = ‖J u‖² at the solution
  double squares = inner(residual, residual);
  const double enough = 1e-14 * squares;
  for (int iteration = 0; iteration < 200 && squares > enough; ++iteration) {
    Matrix lifted = zeros(shape_of(w));
    projector.unproject(direction, lifted);
    const double curvature = squared_norm(lifted);
    if (!(curvature > 0)) break;
    const double length = squares / curvature;
    captured += length * inner(direction, right);
    add(residual, -length, projector.project(Gradient::dense(std::move(lifted)), w));
    const double next = inner(residual, residual);
    if (!(next < 1e6 * squares)) break;
    for (Matrix& factor : direction) scale(factor, next / squares);
    add(direction, 1, residual);
    squares = next;
  }
  return captured / energy;
}

}  // namespace gradview
