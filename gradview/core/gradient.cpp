#include "gradview/core/gradient.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "gradview/core/linalg.hpp"

namespace gradview {

SharedMatrix share(Matrix a) { return std::make_shared<const Matrix>(std::move(a)); }

Gradient Gradient::dense(Matrix g) { return dense(share(std::move(g))); }

Gradient Gradient::dense(SharedMatrix g) {
  const Shape shape = shape_of(*g);
  return {shape, Term{1, Dense{std::move(g)}}};
}

Gradient Gradient::outer(SharedMatrix delta, SharedMatrix x) {
  const auto [tokens, m] = shape_of(*delta);
  const std::size_t n = x->shape()[1];
  require_shape("Gradient::outer", "x", shape_of(*x), {tokens, n});
  return {{m, n}, Term{1, Outer{std::move(delta), std::move(x)}}};
}

Gradient Gradient::rows(std::size_t m, std::vector<std::size_t> index, SharedMatrix g) {
  const std::size_t n = g->shape()[1];
  require_shape("Gradient::rows", "g", shape_of(*g), {index.size(), n});
  if (std::any_of(index.begin(), index.end(), [&](std::size_t i) { return i >= m; })) {
    throw std::invalid_argument("Gradient::rows: an index is not below " + std::to_string(m));
  }
  return {{m, n},
          Term{1, Rows{std::make_shared<const std::vector<std::size_t>>(std::move(index)),
                       std::move(g)}}};
}

void Gradient::add(Gradient more, double s) {
  require_shape("Gradient::add", "the other gradient", more.shape_, shape_);
  for (Term& term : more.terms_) {
    term.s *= s;
    terms_.push_back(std::move(term));
  }
}

template <class OnDense, class OnOuter, class OnRows>
void Gradient::each(const OnDense& on_dense, const OnOuter& on_outer, const OnRows& on_rows) const {
  for (const Term& term : terms_) {
    if (const auto* dense = std::get_if<Dense>(&term.value)) {
      on_dense(term.s, *dense->g);
    } else if (const auto* outer = std::get_if<Outer>(&term.value)) {
      on_outer(term.s, *outer->delta, *outer->x);
    } else {
      const auto& some = std::get<Rows>(term.value);
      on_rows(term.s, *some.index, *some.g);
    }
  }
}

namespace {

using Index = std::vector<std::size_t>;

Matrix gathered(const Matrix& a, const Index& index) {
  const std::size_t n = a.shape()[1];
  Matrix out = uninitialized({index.size(), n});
  for (std::size_t k = 0; k < index.size(); ++k) {
    std::copy_n(a.data() + index[k] * n, n, out.data() + k * n);
  }
  return out;
}

// Row to(k) of sum += s times row k of a.
template <class To>
void scatter(Matrix& sum, double s, const Matrix& a, const To& to) {
  const auto [count, n] = shape_of(a);
  for (std::size_t k = 0; k < count; ++k) {
    const Real* from = a.data() + k * n;
    Real* row = sum.data() + to(k) * n;
    for (std::size_t j = 0; j < n; ++j) row[j] += static_cast<Real>(s) * from[j];
  }
}

void add_rows(Matrix& sum, double s, const Index& index, const Matrix& g) {
  scatter(sum, s, g, [&](std::size_t k) { return index[k]; });
}

Matrix spread(std::size_t m, const Index& index, const Matrix& g) {
  Matrix out = zeros({m, g.shape()[1]});
  add_rows(out, 1, index, g);
  return out;
}

}  // namespace

bool Gradient::factored() const {
  return std::any_of(terms_.begin(), terms_.end(),
                     [](const Term& term) { return !std::holds_alternative<Dense>(term.value); });
}

bool Gradient::finite() const {
  bool finite = true;
  each([&](double, const Matrix& g) { finite = finite && all_finite(g); },
       [&](double, const Matrix& delta, const Matrix& x) {
         finite = finite && all_finite(delta) && all_finite(x);
       },
       [&](double, const Index&, const Matrix& g) { finite = finite && all_finite(g); });
  return finite;
}

const Matrix* Gradient::alone() const {
  if (terms_.size() != 1 || terms_[0].s != 1) return nullptr;
  const auto* dense = std::get_if<Dense>(&terms_[0].value);
  return dense ? dense->g.get() : nullptr;
}

Matrix Gradient::materialize() const {
  if (alone()) return *alone();
  Matrix sum;  // the first term makes it, the others are added
  const auto start = [&](Matrix first, double s) {
    sum = std::move(first);
    if (s != 1) scale(sum, s);
  };
  each([&](double s, const Matrix& g) { sum.size() == 0 ? start(g, s) : axpy(sum, s, g); },
       [&](double s, const Matrix& delta, const Matrix& x) {
         sum.size() == 0 ? start(matmul_tn(delta, x), s) : add_matmul_tn(sum, s, delta, x);
       },
       [&](double s, const Index& index, const Matrix& g) {
         if (sum.size() == 0) sum = zeros(shape_);
         add_rows(sum, s, index, g);
       });
  return terms_.empty() ? zeros(shape_) : sum;
}

Matrix Gradient::input_squares() const {
  Matrix sum = zeros({shape_.cols, shape_.cols});
  each([](double, const Matrix&) {},
       [&](double, const Matrix&, const Matrix& x) { add_matmul_tn(sum, 1, x, x); },
       [](double, const Index&, const Matrix&) {});
  return sum;
}

std::size_t Gradient::tokens() const {
  std::size_t count = 0;
  each([](double, const Matrix&) {},
       [&](double, const Matrix&, const Matrix& x) { count += x.shape()[0]; },
       [](double, const Index&, const Matrix&) {});
  return count;
}

Matrix Gradient::materialize_rows(std::size_t first, std::size_t count) const {
  Matrix sum = zeros({count, shape_.cols});
  each([&](double s, const Matrix& g) { axpy(sum, s, gradview::rows(g, first, count)); },
       [&](double s, const Matrix& delta, const Matrix& x) {
         add_matmul_tn(sum, s, columns(delta, first, count), x);
       },
       [&](double s, const Index& index, const Matrix& g) {
         for (std::size_t k = 0; k < index.size(); ++k) {
           if (index[k] < first || index[k] >= first + count) continue;
           add_rows(sum, s, {index[k] - first}, gradview::rows(g, k, 1));
         }
       });
  return sum;
}

Sides Gradient::sides(const Matrix* u, const Matrix* v) const {
  Sides sum{v ? zeros({shape_.rows, v->shape()[0]}) : Matrix(),
            u ? zeros({u->shape()[1], shape_.cols}) : Matrix()};
  each([&](double s, const Matrix& dense) { add_sides(sum, s, dense, u, v); },
       [&](double s, const Matrix& delta, const Matrix& x) {
         add_outer_sides(sum, s, delta, x, u, v);
       },
       [&](double s, const Index& index, const Matrix& g) {
         if (v) add_rows(sum.right, s, index, matmul_nt(g, *v));
         if (u) add_matmul_tn(sum.left, s, gathered(*u, index), g);
       });
  return sum;
}

Matrix matmul_nt(const Gradient& g, const Matrix& v) { return g.sides(nullptr, &v).right; }
Matrix matmul_tn(const Matrix& u, const Gradient& g) { return g.sides(&u, nullptr).left; }
Sides sides(const Gradient& g, const Matrix& u, const Matrix& v) { return g.sides(&u, &v); }

Sides Gradient::folds(std::size_t r, bool columns, bool rows) const {
  Sides sum{zeros({columns ? shape_.rows : 0, r}), zeros({r, rows ? shape_.cols : 0})};
  const auto on_dense = [&](double s, const Matrix& dense) {
    if (columns && rows) {
      const Sides more = folded(dense, r);
      axpy(sum.right, s, more.right);
      axpy(sum.left, s, more.left);
    } else {
      if (columns) axpy(sum.right, s, fold_columns(dense, r));
      if (rows) axpy(sum.left, s, fold_rows(dense, r));
    }
  };
  each(
      on_dense,
      [&](double s, const Matrix& delta, const Matrix& x) { add_outer_folds(sum, s, delta, x, r); },
      [&](double s, const Index& index, const Matrix& g) {
        if (columns) add_rows(sum.right, s, index, fold_columns(g, r));
        if (rows) scatter(sum.left, s, g, [&](std::size_t k) { return index[k] % r; });
      });
  return sum;
}

Sides folded(const Gradient& g, std::size_t r) { return g.folds(r, true, true); }
Matrix fold_columns(const Gradient& g, std::size_t r) { return g.folds(r, true, false).right; }
Matrix fold_rows(const Gradient& g, std::size_t r) { return g.folds(r, false, true).left; }

double dot(const Gradient& g, const Matrix& w) {
  double sum = 0;
  g.each([&](double s, const Matrix& dense) { sum += s * dot(dense, w); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           sum += s * dot(delta, matmul_nt(x, w));  // Σ_t δ_t · (W x_t)
         },
         [&](double s, const Index& index, const Matrix& some) {
           sum += s * dot(some, gathered(w, index));
         });
  return sum;
}

Matrix row_dots(const Gradient& g, const Matrix& w) {
  Matrix sum = zeros({g.shape_.rows, 1});
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, row_dots(dense, w)); },
         [&](double s, const Matrix& delta, const Matrix& x) {
           const Matrix y = matmul_nt(x, w);  // Σ_t δ_ti (W x_t)_i
           for (std::size_t k = 0; k < y.size(); ++k) {
             sum.data()[k % g.shape_.rows] += static_cast<Real>(s) * delta.data()[k] * y.data()[k];
           }
         },
         [&](double s, const Index& index, const Matrix& some) {
           add_rows(sum, s, index, row_dots(some, gathered(w, index)));
         });
  return sum;
}

namespace {

Matrix reshaped(const Matrix& a, Shape shape) {
  Matrix out = uninitialized(shape);
  std::copy_n(a.data(), a.size(), out.data());
  return out;
}

// Every row of a, seen as a k x l matrix, transposed: N x k l → N l x k.
Matrix transposed_rows(const Matrix& a, std::size_t k) {
  const std::size_t l = a.shape()[1] / k;
  Matrix out = uninitialized({a.shape()[0] * l, k});
  for (std::size_t row = 0; row < out.shape()[0]; ++row) {
    for (std::size_t i = 0; i < k; ++i) out(row, i) = a(row / l, i * l + row % l);
  }
  return out;
}

}  // namespace

// Of one token, δ is an m1 x m2 and x an n1 x n2 matrix, and block ij of δᵀ x is δ_iᵀ x_j.
Matrix block_dots(const Gradient& g, const Matrix& b) {
  const auto [m2, n2] = shape_of(b);

  const std::size_t m1 = g.shape_.rows / m2;
  const std::size_t n1 = g.shape_.cols / n2;
  require_shape("block_dots", "G", g.shape_, {m1 * m2, n1 * n2});
  Matrix sum = zeros({m1, n1});
  const auto on_outer = [&, m = m2, n = n2](double s, const Matrix& delta, const Matrix& x) {
    const std::size_t tokens = x.shape()[0];
    const Matrix y = matmul_nt(reshaped(x, {tokens * n1, n}), b);  // b x_j    N n1 x m2
    add_matmul_tn(sum, s, transposed_rows(delta, m1),
                  transposed_rows(reshaped(y, {tokens, n1 * m}), n1));
  };
  const auto on_rows = [&](double s, const Index& index, const Matrix& some) {
    axpy(sum, s, block_dots(spread(g.shape_.rows, index, some), b));
  };
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, block_dots(dense, b)); }, on_outer,
         on_rows);
  return sum;
}

Matrix block_sum(const Gradient& g, const Matrix& c) {
  const auto [m1, n1] = shape_of(c);

  const std::size_t m2 = g.shape_.rows / m1;
  const std::size_t n2 = g.shape_.cols / n1;
  require_shape("block_sum", "G", g.shape_, {m1 * m2, n1 * n2});
  Matrix sum = zeros({m2, n2});
  const auto on_outer = [&, m = m1, n = n1](double s, const Matrix& delta, const Matrix& x) {
    const std::size_t tokens = x.shape()[0];
    const Matrix z = matmul(transposed_rows(delta, m), c);  // Σ_i c_ij δ_i    N m2 x n1
    add_matmul_tn(sum, s, transposed_rows(reshaped(z, {tokens, m2 * n}), m2),
                  reshaped(x, {tokens * n, n2}));
  };
  const auto on_rows = [&](double s, const Index& index, const Matrix& some) {
    axpy(sum, s, block_sum(spread(g.shape_.rows, index, some), c));
  };
  g.each([&](double s, const Matrix& dense) { axpy(sum, s, block_sum(dense, c)); }, on_outer,
         on_rows);
  return sum;
}

// All terms factored: Σ_kl s_k s_l ⟨δ_k δ_lᵀ, x_k x_lᵀ⟩, of N² (m + n) multiply-adds for N tokens in
// all; or G itself, of N m n, a block of rows at a time.
double squared_norm(const Gradient& g) {
  const auto [m, n] = g.shape_;
  const bool all_factored =
      std::all_of(g.terms_.begin(), g.terms_.end(), [](const Gradient::Term& term) {
        return std::holds_alternative<Gradient::Outer>(term.value);
      });
  double sum = 0;
  if (g.terms_.size() == 1) {
    const Gradient::Term& only = g.terms_[0];
    const auto* some = std::get_if<Gradient::Rows>(&only.value);
    if (some) return only.s * only.s * squared_norm(*some->g);
  }
  if (all_factored && g.tokens() * (m + n) < m * n) {
    for (const Gradient::Term& k : g.terms_) {
      for (const Gradient::Term& l : g.terms_) {
        const auto& a = std::get<Gradient::Outer>(k.value);
        const auto& b = std::get<Gradient::Outer>(l.value);
        sum += k.s * l.s * dot(matmul_nt(*a.delta, *b.delta), matmul_nt(*a.x, *b.x));
      }
    }
    return sum;
  }
  constexpr std::size_t kRows = 512;
  for (std::size_t first = 0; first < m; first += kRows) {
    sum += squared_norm(g.materialize_rows(first, std::min(kRows, m - first)));
  }
  return sum;
}

}  // namespace gradview
