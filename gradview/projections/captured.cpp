#include "gradview/projections/captured.hpp"

#include <cmath>
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

double captured_energy(const Projector& projector, const Gradient& g, const Matrix& w,
                       const Matrix* sigma) {
  const Gradient weighted = sigma ? Gradient::dense(matmul(g.materialize(), *sigma)) : g;
  const double energy = sigma ? dot(g, weighted.materialize()) : squared_norm(g);
  if (!(energy > 0)) return std::numeric_limits<double>::quiet_NaN();
  Factors residual = projector.project(weighted, w);  // JᵀG Σ
  Factors direction = residual;
  double captured = 0;  // ⟨u, JᵀG Σ⟩, the energy of J u at the solution
  double squares = inner(residual, residual);
  const double enough = 1e-14 * squares;
  const int most = sigma ? 3000 : 200;  // Σ may be far from round
  int idle = 0;                         // steps in a row that captured nothing to speak of
  for (int iteration = 0; iteration < most && squares > enough && idle < 30; ++iteration) {
    Matrix lifted = zeros(shape_of(w));
    projector.unproject(direction, lifted);
    Matrix image = sigma ? matmul(lifted, *sigma) : lifted;
    const double curvature = dot(lifted, image);
    if (!(curvature > 0)) break;
    const double length = squares / curvature;
    const double gained = length * squares;
    captured += gained;
    idle = std::abs(gained) < 1e-13 * captured ? idle + 1 : 0;
    add(residual, -length, projector.project(Gradient::dense(std::move(image)), w));
    const double next = inner(residual, residual);
    if (!(next < 1e6 * squares)) break;
    for (Matrix& factor : direction) scale(factor, next / squares);
    add(direction, 1, residual);
    squares = next;
  }
  return captured / energy;
}

}  // namespace gradview
