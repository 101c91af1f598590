// Products in bfloat16: operands rounded to 8 significant bits, summed in float.
//
//   c = Σ_k bf16(a_ik) bf16(b_kj)        |c − a b|_ij ≤ (2 · 2⁻⁸ + 2⁻¹⁶ + k 2⁻²³) Σ_k |a_ik b_kj|
//
// bf16 rounds to the nearest, ties to even; NaN stays NaN. Subnormal operands and results may be
// taken for zero. This is the only door to oneDNN, which is optional: without it, on a CPU without
// bfloat16 instructions and in the double build nothing here runs (bf16_runs_here), and rounding an
// operand throws std::runtime_error.
#pragma once

#include <cstdint>
#include <string>

#include "gradview/core/linalg.hpp"

namespace gradview {

bool bf16_runs_here();  // the CPU multiplies bfloat16 faster than float, and we can ask it to
std::string bf16_description();  // library and instruction set; or why it does not run here

std::uint16_t to_bf16(float x);  // the upper half of the nearest bfloat16's bits
float from_bf16(std::uint16_t x);

// In what a model's forward and backward multiply by W. Weights and gradients are Real either way.
enum class Compute { real, bf16 };

using Bf16Matrix =
    xt::xtensor<std::uint16_t, 2, xt::layout_type::row_major, BufferAllocator<std::uint16_t>>;

// A matrix as the products take it: itself, which must outlive this, or rounded, once for all the
// products that it goes into.
class Operand {
 public:
  Operand(const Matrix& a, Compute in = Compute::real);
  const Matrix& real() const { return *real_; }
  const Bf16Matrix& rounded() const { return rounded_; }
  Compute compute() const { return compute_; }

 private:
  const Matrix* real_;
  Bf16Matrix rounded_;  // empty in Real
  Compute compute_;
};

// Both operands in the same arithmetic, else std::invalid_argument.
Matrix matmul(const Operand& a, const Operand& b);                            // a b
Matrix matmul_nt(const Operand& a, const Operand& b);                         // a bᵀ
void add_matmul(Matrix& c, double s, const Operand& a, const Operand& b);     // c += s a b
void add_matmul_nt(Matrix& c, double s, const Operand& a, const Operand& b);  // c += s a bᵀ

}  // namespace gradview
