// Products in bfloat16: operands rounded to 8 significant bits, summed in float.
//
//   c = Σ_k bf16(a_ik) bf16(b_kj)        |c − a b|_ij ≤ (2 · 2⁻⁸ + 2⁻¹⁶ + k 2⁻²³) Σ_k |a_ik b_kj|
//
// bf16 rounds to the nearest, ties to even; NaN stays NaN. Subnormal operands and results may be
// taken for zero. This is the only door to oneDNN, which is optional: without it, on a CPU without
// bfloat16 instructions and in the double build nothing here runs (bf16_runs_here), and the
// products throw std::runtime_error.
#pragma once

#include <cstdint>
#include <string>

#include "gradview/core/linalg.hpp"

namespace gradview {

bool bf16_runs_here();  // the CPU multiplies bfloat16 faster than float, and we can ask it to
std::string bf16_description();  // library and instruction set; or why it does not run here

std::uint16_t to_bf16(float x);  // the upper half of the nearest bfloat16's bits
float from_bf16(std::uint16_t x);

Matrix matmul_bf16(const Matrix& a, const Matrix& b);     // a b      (m x k)(k x n)
Matrix matmul_nt_bf16(const Matrix& a, const Matrix& b);  // a bᵀ     (m x k)(n x k)

// In what a model's forward and backward multiply by W. Weights and gradients are Real either way.
enum class Compute { real, bf16 };

inline Matrix matmul(const Matrix& a, const Matrix& b, Compute in) {
  return in == Compute::bf16 ? matmul_bf16(a, b) : matmul(a, b);
}
inline Matrix matmul_nt(const Matrix& a, const Matrix& b, Compute in) {
  return in == Compute::bf16 ? matmul_nt_bf16(a, b) : matmul_nt(a, b);
}
inline void add_matmul(Matrix& c, double s, const Matrix& a, const Matrix& b, Compute in) {
  in == Compute::bf16 ? axpy(c, s, matmul_bf16(a, b)) : add_matmul(c, s, a, b);
}

}  // namespace gradview
