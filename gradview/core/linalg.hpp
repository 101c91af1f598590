// Checked linear algebra on Matrix: the only door to BLAS and LAPACK, and the loops that are not in
// them. Every function throws std::invalid_argument where shapes disagree. Aliased operands are not
// supported.
#pragma once

#include <string>
#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

Matrix matmul(const Matrix& a, const Matrix& b);     // a b      (m x k)(k x n)
Matrix matmul_nt(const Matrix& a, const Matrix& b);  // a bᵀ     (m x k)(n x k)
Matrix matmul_tn(const Matrix& a, const Matrix& b);  // aᵀ b     (k x m)(k x n)
void add_matmul(Matrix& c, double s, const Matrix& a, const Matrix& b);     // c += s a b
void add_matmul_nt(Matrix& c, double s, const Matrix& a, const Matrix& b);  // c += s a bᵀ
void add_matmul_tn(Matrix& c, double s, const Matrix& a, const Matrix& b);  // c += s aᵀ b
Matrix transpose(const Matrix& a);
Matrix copy_of(const Matrix& a);  // by all threads

Matrix rows(const Matrix& a, std::size_t first, std::size_t count);     // a block of them
Matrix columns(const Matrix& a, std::size_t first, std::size_t count);  // likewise
Matrix stacked(const Matrix& top, const Matrix& bottom);                // [top; bottom]
Matrix side_by_side(const Matrix& left, const Matrix& right);           // [left right]

void scale(Matrix& y, double s);                      // y *= s
void axpy(Matrix& y, double s, const Matrix& x);      // y += s x
Matrix difference(const Matrix& a, const Matrix& b);  // a - b
double dot(const Matrix& a, const Matrix& b);         // Σ a_ij b_ij, summed in double
double squared_norm(const Matrix& a);  // ‖a‖_F², summed in double; NaN stays NaN
bool all_finite(const Matrix& a);

// Kronecker products: c ⊗ b (c: m1 x n1, b: m2 x n2) is the m1 m2 x n1 n2 matrix of blocks c_ij b.
void add_kronecker(Matrix& w, double s, const Matrix& c, const Matrix& b);  // w += s c ⊗ b
Matrix block_dots(const Matrix& a, const Matrix& b);  // ⟨block ij of a, b⟩              (m1 x n1)
Matrix block_sum(const Matrix& a, const Matrix& c);  // Σ_ij c_ij · block ij of a      (m2 x n2)

Matrix row_dots(const Matrix& a, const Matrix& b);  // ⟨a_i, b_i⟩ per row, summed in double (m x 1)

struct Svd {
  Matrix u;  // m x k, orthonormal columns; the entry of largest magnitude in each is positive
  std::vector<double> singular;  // k = min(m, n), descending
  Matrix vt;                     // k x n
};
Svd svd(const Matrix& a);                        // throws std::domain_error on non-finite input
void fix_signs(Svd& s);                          // as Svd promises; products stay
Matrix solve(const Matrix& a, const Matrix& b);  // x with a x = b, a: k x k; throws
                                                 // std::domain_error where a is singular
struct SymmetricEigen {                          // a = q diag(values) qᵀ
  Matrix q;                                      // k x k, orthonormal columns
  std::vector<double> values;                    // ascending
};
SymmetricEigen symmetric_eigen(const Matrix& a);  // of the lower triangle
Matrix orthonormal_rows(const Matrix& a);  // r x n, r <= n: Qᵀ of aᵀ = QR with diag(R) > 0

std::string blas_description();  // library, kernel and threads, for the records of a run

}  // namespace gradview
