// Thin products: what a low-rank method does with an m x n matrix, one pass over it each. Sums are
// split into fixed blocks that are added in order: the bits are those of one thread. Every function
// throws std::invalid_argument where shapes disagree.
#pragma once

#include <initializer_list>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Sides {   // of an m x n matrix A, with u: m x r and v: r x n
  Matrix right;  // A vᵀ   m x r
  Matrix left;   // uᵀ A   r x n
};

// sum += s (A vᵀ, uᵀ A), A read once. Where u or v is null, that side is left alone. From rank 32
// on, two GEMMs, which then are as fast.
void add_sides(Sides& sum, double s, const Matrix& a, const Matrix* u, const Matrix* v);

// The same of A = δᵀ x, which is not formed: δᵀ(x vᵀ), (δ u)ᵀ x.     δ: N x m, x: N x n
//
//     for chunks of tokens      q = δ u,  (p, left) = (x vᵀ, left + qᵀ x),  right += δᵀ p
//
// x is read once and δ twice, the second time from the cache; or in four GEMMs, where the rank is
// so large that the chunks cost more than the reads they save.
void add_outer_sides(Sides& sum, double s, const Matrix& delta, const Matrix& x, const Matrix* u,
                     const Matrix* v);

// w += s Σ left · right, one pass over w.     left: m x k, right: k x n
//
// The delta form W += s (dU V′ + U dV) is two such products: it rounds far less than the difference
// of U′V′ and U V, whose terms are not small.
struct Product {
  const Matrix& left;
  const Matrix& right;
};
void add_products(Matrix& w, double s, std::initializer_list<Product> products);

// Folding by strides is the product with J_d = [I_r I_r … ] (r x d, cut at d), whose column j is
// the unit vector of j mod r: no GEMM with ones. r = 1 gives the row and the column sums.
//     right  A J_nᵀ   (i, k) = Σ_{j ≡ k mod r} a(i, j)        m x r
//     left   J_m A    (k, j) = Σ_{i ≡ k mod r} a(i, j)        r x n
Sides folded(const Matrix& a, std::size_t r);  // both, one read
// sum += s times those of A = δᵀ x: δᵀ(x Jᵀ), (δ Jᵀ)ᵀ x, by chunks of tokens, each read twice and the
// second time from the cache. A side of size zero is left alone.
void add_outer_folds(Sides& sum, double s, const Matrix& delta, const Matrix& x, std::size_t r);
Matrix fold_columns(const Matrix& a, std::size_t r);
Matrix fold_rows(const Matrix& a, std::size_t r);
// w(i, j) += u(i, j mod r) + v(i mod r, j): u J_n + J_mᵀ v in one pass over w.     w: m x n, u: m x
// r, v: r x n
void add_unfolded(Matrix& w, const Matrix& u, const Matrix& v);

}  // namespace gradview
