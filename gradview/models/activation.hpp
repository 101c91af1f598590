// Activations, element by element, and their derivatives.
#pragma once

#include "gradview/core/matrix.hpp"

namespace gradview {

// gelu: z Φ(z), the exact one; gelu_tanh: z (1 + tanh(√(2/π)(z + 0.044715 z³))) / 2; silu: z σ(z).
// Hendrycks, Gimpel: Gaussian error linear units (2016, arXiv:1606.08415).
enum class Activation { relu, gelu, gelu_tanh, silu, tanh };

void activate(Activation kind, Matrix& z);                               // z ← f(z)
Matrix activated(Activation kind, const Matrix& z);                      // f(z)
void times_derivative(Activation kind, const Matrix& z, Matrix& delta);  // δ ← δ ∘ f′(z)

// Gated: y = f(z) ∘ u. Shazeer: GLU variants improve transformer (2020, arXiv:2002.05202).
Matrix gated(Activation kind, const Matrix& z, const Matrix& u);
// From δ = ∂L/∂y: δ becomes ∂L/∂z, and the result is ∂L/∂u.
Matrix gated_gradient(Activation kind, const Matrix& z, const Matrix& u, Matrix& delta);

}  // namespace gradview
