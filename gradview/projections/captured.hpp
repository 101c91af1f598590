// How much of a matrix a method can express from where it stands.
#pragma once

#include "gradview/projections/projector.hpp"

namespace gradview {

// ‖Π G‖²/‖G‖², Π the orthogonal projection onto the tangent space {J u}: the share of G's energy
// that some step of the method could follow. By conjugate gradients on JᵀJ u = JᵀG. NaN for G = 0.
double captured_energy(const Projector& projector, const Gradient& g, const Matrix& w);

}  // namespace gradview
