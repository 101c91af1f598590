// Activations, element by element, and their derivatives.
#pragma once

#include "gradview/core/matrix.hpp"

namespace gradview {

enum class Activation { relu, gelu, tanh };  // gelu: z Φ(z), the exact one

void activate(Activation kind, Matrix& z);                               // z ← f(z)
void times_derivative(Activation kind, const Matrix& z, Matrix& delta);  // δ ← δ ∘ f′(z)

}  // namespace gradview
