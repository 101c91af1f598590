#include "gradview/core/gradient.hpp"

#include <utility>

#include "gradview/core/linalg.hpp"

namespace gradview {

SharedMatrix share(Matrix a) { return std::make_shared<const Matrix>(std::move(a)); }

Gradient Gradient::dense(Matrix g) {
  const Shape shape = shape_of(g);
  return {shape, Term{1, Dense{share(std::move(g))}}};
}

Gradient Gradient::outer(SharedMatrix delta, SharedMatrix x) {
  const auto [tokens, m] = shape_of(*delta);
  const std::size_t n = x->shape()[1];
  require_shape("Gradient::outer", "x", shape_of(*x), {tokens, n});
  return {{m, n}, Term{1, Outer{std::move(delta), std::move(x)}}};
}

void Gradient::add(Gradient more, double s) {
  require_shape("Gradient::add", "the other gradient", more.shape_, shape_);
  for (Term& term : more.terms_) {
    term.s *= s;
    terms_.push_back(std::move(term));
  }
}

template <class OnDense, class OnOuter>
void Gradient::each(const OnDense& on_dense, const OnOuter& on_outer) const {
  for (const Term& term : terms_) {
    if (const auto* dense = std::get_if<Dense>(&term.value)) {
      on_dense(term.s, *dense->g);
    } else {
      const auto& outer = std::get<Outer>(term.value);
      on_outer(term.s, *outer.delta, *outer.x);
    }
  }
}

bool Gradient::finite() const {
  bool finite = true;
  each([&](double, const Matrix& g) { finite = finite && all_finite(g); },
       [&](double, const Matrix& delta, const Matrix& x) {
         finite = finite && all_finite(delta) && all_finite(x);
       });
  return finite;
}

Matrix Gradient::materialize() const {
  Matrix sum = zeros(shape_);
  each([&](double s, const Matrix& g) { axpy(sum, s, g); },
       [&](double s, const Matrix& delta, const Matrix& x) { add_matmul_tn(sum, s, delta, x); });
  return sum;
}

Matrix matmul_nt(const Gradient& g, const Matrix& v) {
  Matrix sum = zeros({g.shape_.rows, v.shape()[0]});
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, matmul_nt(dense, v)); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           add_matmul_tn(sum, s, delta, matmul_nt(x, v));  // δᵀ (x vᵀ)
         });
  return sum;
}

Matrix matmul_tn(const Matrix& u, const Gradient& g) {
  Matrix sum = zeros({u.shape()[1], g.shape_.cols});
  g.each([&](double s, const Matrix& dense) { add_matmul_tn(sum, s, u, dense); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           add_matmul_tn(sum, s, matmul(delta, u), x);  // (δ u)ᵀ x
         });
  return sum;
}

Matrix fold_columns(const Gradient& g, std::size_t r) {
  Matrix sum = zeros({g.shape_.rows, r});
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, fold_columns(dense, r)); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           add_matmul_tn(sum, s, delta, fold_columns(x, r));  // δᵀ (x Jᵀ)
         });
  return sum;
}

Matrix fold_rows(const Gradient& g, std::size_t r) {
  Matrix sum = zeros({r, g.shape_.cols});
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, fold_rows(dense, r)); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           add_matmul_tn(sum, s, fold_columns(delta, r), x);  // (δ Jᵀ)ᵀ x
         });
  return sum;
}

double dot(const Gradient& g, const Matrix& w) {
  double sum = 0;
  g.each([&](double s, const Matrix& dense) { sum += s * dot(dense, w); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           sum += s * dot(delta, matmul_nt(x, w));  // Σ_t δ_t · (W x_t)
         });
  return sum;
}

double squared_norm(const Gradient& g) {
  const auto* outer =
      g.terms_.size() == 1 ? std::get_if<Gradient::Outer>(&g.terms_.front().value) : nullptr;
  if (outer) {
    const std::size_t tokens = outer->x->shape()[0];
    if (tokens * (g.shape_.rows + g.shape_.cols) < g.shape_.size()) {  // two N x N Gram matrices
      const double s = g.terms_.front().s;
      return s * s * dot(matmul_nt(*outer->delta, *outer->delta), matmul_nt(*outer->x, *outer->x));
    }
  }
  return squared_norm(g.materialize());
}

}  // namespace gradview
