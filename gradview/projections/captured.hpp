// How much of a matrix a method can express from where it stands.
#pragma once

#include "gradview/projections/projector.hpp"

namespace gradview {

// ‖Π G‖²/‖G‖², Π the orthogonal projection onto the tangent space {J u}: the share of G's energy
// that some step of the method could follow. By conjugate gradients on JᵀJ u = JᵀG. NaN for G = 0.
// With `sigma` (n x n, symmetric, not negative) energy is tr(G Σ Gᵀ), and Π orthogonal under it.
double captured_energy(const Projector& projector, const Gradient& g, const Matrix& w,
                       const Matrix* sigma = nullptr);

}  // namespace gradview
