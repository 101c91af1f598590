// Gradient: the full gradient G = ∂L/∂W of one m x n weight, kept as the sum of the terms it came
// in.
//
//     G = Σ_k s_k δ_kᵀ x_k  +  Σ_l s_l D_l          δ: N x m output gradients, x: N x n inputs of N
//     tokens
//
// or a few rows of it, the others zero, as an embedding has it.
//
// Nearly every method touches G only through thin products, which a factored term gives without
// ever forming G: G vᵀ = δᵀ(x vᵀ) costs N r (m + n) multiply-adds instead of N m n + m n r.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "gradview/core/matrix.hpp"
#include "gradview/core/thin.hpp"

namespace gradview {

using SharedMatrix = std::shared_ptr<const Matrix>;
SharedMatrix share(Matrix a);

class Gradient {
 public:
  explicit Gradient(Shape shape) : shape_(shape) {}  // zero
  static Gradient dense(Matrix g);                   // g: m x n
  static Gradient dense(SharedMatrix g);
  static Gradient outer(SharedMatrix delta,
                        SharedMatrix x);  // δᵀ x; δ: N x m, x: N x n, never multiplied out
  // Row index[k] of m is row k of g: k x n; no index twice.
  static Gradient rows(std::size_t m, std::vector<std::size_t> index, SharedMatrix g);

  void add(Gradient more, double s = 1);  // this += s · more; shares the terms' arrays
  Shape shape() const { return shape_; }
  bool empty() const { return terms_.empty(); }  // no term: zero
  bool factored() const;                         // has a term that is not dense
  bool finite() const;
  const Matrix* alone() const;  // the array that G is, where it is one; else null

  Matrix materialize() const;  // G itself, m x n: the one costly act, visible where it is done
  Matrix materialize_rows(std::size_t first, std::size_t count) const;  // a tile of it: count x n
  // Of the factored terms: Σ xᵀx over their tokens (n x n), and how many tokens there are.
  Matrix input_squares() const;
  std::size_t tokens() const;

  friend Matrix matmul_nt(const Gradient& g, const Matrix& v);  // G vᵀ        v: r x n → m x r
  friend Matrix matmul_tn(const Matrix& u, const Gradient& g);  // uᵀ G        u: m x r → r x n
  // Both at once, in one pass over what there is: (G vᵀ, uᵀ G); and by strides: (G J_nᵀ, J_m G).
  friend Sides sides(const Gradient& g, const Matrix& u, const Matrix& v);
  friend Sides folded(const Gradient& g, std::size_t r);
  friend Matrix fold_columns(const Gradient& g, std::size_t r);  // the first; r = 1: row sums
  friend Matrix fold_rows(const Gradient& g, std::size_t r);     // the second; r = 1: column sums
  friend double dot(const Gradient& g, const Matrix& w);         // ⟨G, w⟩
  friend Matrix row_dots(const Gradient& g, const Matrix& w);    // ⟨G_i, w_i⟩   → m x 1
  // Of the blocks G_ij that a Kronecker product c ⊗ b has; see linalg.hpp.
  friend Matrix block_dots(const Gradient& g, const Matrix& b);  // ⟨G_ij, b⟩
  friend Matrix block_sum(const Gradient& g, const Matrix& c);   // Σ_ij c_ij G_ij
  friend double squared_norm(const Gradient& g);  // ‖G‖_F², by the cheaper of two ways

 private:
  struct Dense {
    SharedMatrix g;
  };
  struct Outer {
    SharedMatrix delta, x;
  };
  struct Rows {
    std::shared_ptr<const std::vector<std::size_t>> index;
    SharedMatrix g;
  };
  struct Term {
    double s;
    std::variant<Dense, Outer, Rows> value;
  };
  Gradient(Shape shape, Term term) : shape_(shape), terms_{std::move(term)} {}
  Sides sides(const Matrix* u, const Matrix* v) const;
  Sides folds(std::size_t r, bool columns, bool rows) const;
  template <class OnDense, class OnOuter, class OnRows>
  void each(const OnDense& on_dense, const OnOuter& on_outer, const OnRows& on_rows) const;

  Shape shape_;
  std::vector<Term> terms_;
};

// Declared here too, so that calls find them without an argument that is a Gradient being spelled
// first.
Matrix matmul_nt(const Gradient& g, const Matrix& v);
Matrix matmul_tn(const Matrix& u, const Gradient& g);
Sides sides(const Gradient& g, const Matrix& u, const Matrix& v);
Sides folded(const Gradient& g, std::size_t r);
Matrix fold_columns(const Gradient& g, std::size_t r);
Matrix fold_rows(const Gradient& g, std::size_t r);
double dot(const Gradient& g, const Matrix& w);
Matrix row_dots(const Gradient& g, const Matrix& w);
Matrix block_dots(const Gradient& g, const Matrix& b);
Matrix block_sum(const Gradient& g, const Matrix& c);
double squared_norm(const Gradient& g);

}  // namespace gradview
