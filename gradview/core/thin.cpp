#include "gradview/core/thin.hpp"

#include <algorithm>
#include <vector>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"

namespace gradview {
namespace {

constexpr std::size_t kMostBlocks = 8;    // of a sum: each has its own partial one
constexpr std::size_t kFewestRows = 128;  // of a block
constexpr std::size_t kLargestRank = 31;  // that the kernels are better at than a GEMM

// Rows per block: the same for any number of threads.
std::size_t block_rows(std::size_t rows) {
  return std::max(kFewestRows, (rows + kMostBlocks - 1) / kMostBlocks);
}

std::size_t block_count(std::size_t rows, std::size_t block) { return (rows + block - 1) / block; }

struct Packed {
  std::size_t r, n;
  Matrix data;
};

Packed packed(Strided from, std::size_t r, std::size_t n) {
  Packed out{r, n, uninitialized({1, kernels().thin_size(r, n)})};
  kernels().thin_pack(from, r, n, out.data.data());
  return out;
}
Packed packed_rows(const Matrix& v) {  // v: r x n
  const auto [r, n] = shape_of(v);
  return packed({v.data(), n, 1}, r, n);
}
Packed packed_columns(const Matrix& u) {  // uᵀ of u: m x r
  const auto [m, r] = shape_of(u);
  return packed({u.data(), 1, r}, r, m);
}

// One packed r x n sum per block.
class Partial {
 public:
  Partial(std::size_t blocks, std::size_t r, std::size_t n)
      : r_(r), n_(n), sums_(uninitialized({blocks, kernels().thin_size(r, n)})) {}
  Real* start(std::size_t block) {  // its sum, at zero
    const std::size_t size = sums_.shape()[1];
    Real* sum = sums_.data() + block * size;
    std::fill(sum, sum + size, Real{0});
    return sum;
  }
  void add_to(Real* to, std::size_t row, std::size_t column, double s) {
    const auto [blocks, size] = shape_of(sums_);
    Real* sum = sums_.data();
    for (std::size_t block = 1; block < blocks; ++block) {  // in order
      const Real* more = sums_.data() + block * size;
      for (std::size_t k = 0; k < size; ++k) sum[k] += more[k];
    }
    kernels().thin_add(sum, r_, n_, static_cast<Real>(s), to, row, column);
  }

 private:
  std::size_t r_, n_;
  Matrix sums_;
};

std::size_t rank_of(const Matrix* u, const Matrix* v) { return u ? u->shape()[1] : v->shape()[0]; }

void check_sides(const char* who, const Sides& sum, Shape a, const Matrix* u, const Matrix* v) {
  const std::size_t r = rank_of(u, v);
  if (u) require_shape(who, "u", shape_of(*u), {a.rows, r});
  if (v) require_shape(who, "v", shape_of(*v), {r, a.cols});
  if (v) require_shape(who, "the right side", shape_of(sum.right), {a.rows, r});
  if (u) require_shape(who, "the left side", shape_of(sum.left), {r, a.cols});
}

}  // namespace

void add_sides(Sides& sum, double s, const Matrix& a, const Matrix* u, const Matrix* v) {
  const auto [m, n] = shape_of(a);
  check_sides("add_sides", sum, {m, n}, u, v);
  const std::size_t r = rank_of(u, v);
  if (a.size() == 0 || r == 0) return;
  if (r > kLargestRank) {
    if (v) axpy(sum.right, s, matmul_nt(a, *v));
    if (u) add_matmul_tn(sum.left, s, *u, a);
    return;
  }
  const std::size_t block = block_rows(m);
  const Packed right = v ? packed_rows(*v) : Packed{};
  Partial left(u ? block_count(m, block) : 0, r, n);
  Matrix p = v ? uninitialized({m, r}) : Matrix();
  parallel_blocks(m, block, [&, n = n](std::size_t begin, std::size_t end) {
    kernels().thin({.a = a.data() + begin * n,
                    .lda = n,
                    .rows = end - begin,
                    .n = n,
                    .r = r,
                    .v = v ? right.data.data() : nullptr,
                    .p = v ? p.data() + begin * r : nullptr,
                    .q = u ? u->data() + begin * r : nullptr,
                    .h = u ? left.start(begin / block) : nullptr});
  });
  if (v) axpy(sum.right, s, p);
  if (u) left.add_to(sum.left.data(), n, 1, s);
}

namespace {

// Tokens of a chunk, whose δ stays in the cache until it is read again.
std::size_t chunk_tokens(std::size_t m) {
  constexpr std::size_t kCached = std::size_t{3} << 18;  // bytes: fits beside the rest in 1 MiB
  const std::size_t fitting = kCached / (m * sizeof(Real) + 1) / 24 * 24;  // whole tiles of 6 and 8
  return std::clamp<std::size_t>(fitting, 24, 72);
}

}  // namespace

void add_outer_sides(Sides& sum, double s, const Matrix& delta, const Matrix& x, const Matrix* u,
                     const Matrix* v) {
  const auto [tokens, m] = shape_of(delta);
  const std::size_t n = x.shape()[1];
  require_shape("add_outer_sides", "x", shape_of(x), {tokens, n});
  check_sides("add_outer_sides", sum, {m, n}, u, v);
  const std::size_t r = rank_of(u, v);
  if (tokens == 0 || r == 0) return;
  if (r > kLargestRank) {
    if (v) add_matmul_tn(sum.right, s, delta, matmul_nt(x, *v));
    if (u) add_matmul_tn(sum.left, s, matmul(delta, *u), x);
    return;
  }
  const std::size_t block = block_rows(tokens);
  const std::size_t blocks = block_count(tokens, block);
  const std::size_t chunk = chunk_tokens(m);
  const Packed for_delta = u ? packed_columns(*u) : Packed{};
  const Packed for_x = v ? packed_rows(*v) : Packed{};
  Partial left(u ? blocks : 0, r, n);
  Partial right(v ? blocks : 0, r, m);
  parallel_blocks(tokens, block, [&, m = m](std::size_t begin, std::size_t end) {
    std::vector<Real> q(chunk * r);
    std::vector<Real> p(chunk * r);
    Real* left_sum = u ? left.start(begin / block) : nullptr;
    Real* right_sum = v ? right.start(begin / block) : nullptr;
    for (std::size_t t = begin; t < end; t += chunk) {
      const std::size_t count = std::min(chunk, end - t);
      ThinBlock of_delta{.a = delta.data() + t * m, .lda = m, .rows = count, .n = m, .r = r};
      ThinBlock of_x{.a = x.data() + t * n, .lda = n, .rows = count, .n = n, .r = r};
      if (u) {
        ThinBlock b = of_delta;
        b.v = for_delta.data.data();
        b.p = q.data();  // q = δ u
        kernels().thin(b);
        of_x.q = q.data();
        of_x.h = left_sum;
      }
      if (v) {
        of_x.v = for_x.data.data();
        of_x.p = p.data();
      }
      kernels().thin(of_x);
      if (!v) continue;
      of_delta.q = p.data();
      of_delta.h = right_sum;
      kernels().thin(of_delta);
    }
  });
  if (u) left.add_to(sum.left.data(), n, 1, s);
  if (v) right.add_to(sum.right.data(), 1, r, s);
}

void add_products(Matrix& w, double s, std::initializer_list<Product> products) {
  const auto [m, n] = shape_of(w);
  std::size_t total = 0;
  for (const auto& [left, right] : products) {
    const std::size_t k = left.shape()[1];
    require_shape("add_products", "left", shape_of(left), {m, k});
    require_shape("add_products", "right", shape_of(right), {k, n});
    total += k;
  }
  if (w.size() == 0 || total == 0) return;
  if (total > 2 * kLargestRank) {
    for (const auto& [left, right] : products) add_matmul(w, s, left, right);
    return;
  }
  Matrix lefts = uninitialized({m, total});  // s [left₁ left₂ …]
  Matrix rights = uninitialized({1, kernels().update_size(total, n)});
  std::size_t first = 0;
  for (const auto& [left, right] : products) {
    const std::size_t k = left.shape()[1];
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t l = 0; l < k; ++l) {
        lefts.data()[i * total + first + l] = static_cast<Real>(s) * left.data()[i * k + l];
      }
    }
    kernels().update_pack({right.data(), n, 1}, k, n, first, total, rights.data());
    first += k;
  }
  parallel_blocks(m, block_rows(m), [&, n = n](std::size_t begin, std::size_t end) {
    kernels().update({.w = w.data() + begin * n,
                      .rows = end - begin,
                      .n = n,
                      .k = total,
                      .left = lefts.data() + begin * total,
                      .right = rights.data()});
  });
}

namespace {

Sides fold(const Matrix& a, std::size_t r, bool columns, bool rows) {
  const auto [m, n] = shape_of(a);
  const std::size_t block = block_rows(m);
  Sides out{columns ? uninitialized({m, r}) : Matrix(), rows ? zeros({r, n}) : Matrix()};
  std::vector<Matrix> partial;
  for (std::size_t k = 0; rows && k < block_count(m, block); ++k) partial.push_back(zeros({r, n}));
  parallel_blocks(m, block, [&, n = n](std::size_t begin, std::size_t end) {
    kernels().fold({.a = a.data() + begin * n,
                    .first = begin,
                    .rows = end - begin,
                    .n = n,
                    .r = r,
                    .columns = columns ? out.right.data() + begin * r : nullptr,
                    .rows_sum = rows ? partial[begin / block].data() : nullptr});
  });
  for (const Matrix& sums : partial) axpy(out.left, 1, sums);
  return out;
}

}  // namespace

void add_outer_folds(Sides& sum, double s, const Matrix& delta, const Matrix& x, std::size_t r) {
  const auto [tokens, m] = shape_of(delta);
  const std::size_t n = x.shape()[1];
  const std::size_t block = block_rows(tokens);
  const std::size_t blocks = block_count(tokens, block);
  const std::size_t chunk = 8;  // rows of a tile: the second read is from L1 or L2
  const bool wants_left = sum.left.size() > 0;
  const bool wants_right = sum.right.size() > 0;
  Partial left(wants_left ? blocks : 0, r, n);
  Partial right(wants_right ? blocks : 0, r, m);
  parallel_blocks(tokens, block, [&, m = m](std::size_t begin, std::size_t end) {
    std::vector<Real> q(chunk * r);
    Real* left_sum = wants_left ? left.start(begin / block) : nullptr;
    Real* right_sum = wants_right ? right.start(begin / block) : nullptr;
    const auto pull = [&](const Matrix& from, std::size_t from_cols, const Matrix& to,
                          std::size_t to_cols, std::size_t t, std::size_t count, Real* total) {
      kernels().fold({.a = from.data() + t * from_cols,
                      .first = t,
                      .rows = count,
                      .n = from_cols,
                      .r = r,
                      .columns = q.data()});
      kernels().thin({.a = to.data() + t * to_cols,
                      .lda = to_cols,
                      .rows = count,
                      .n = to_cols,
                      .r = r,
                      .q = q.data(),
                      .h = total});
    };
    for (std::size_t t = begin; t < end; t += chunk) {
      const std::size_t count = std::min(chunk, end - t);
      if (wants_left) pull(delta, m, x, n, t, count, left_sum);
      if (wants_right) pull(x, n, delta, m, t, count, right_sum);
    }
  });
  if (wants_left) left.add_to(sum.left.data(), n, 1, s);
  if (wants_right) right.add_to(sum.right.data(), 1, r, s);
}

Sides folded(const Matrix& a, std::size_t r) { return fold(a, r, true, true); }
Matrix fold_columns(const Matrix& a, std::size_t r) { return fold(a, r, true, false).right; }
Matrix fold_rows(const Matrix& a, std::size_t r) { return fold(a, r, false, true).left; }

void add_unfolded(Matrix& w, const Matrix& u, const Matrix& v) {
  const auto [m, n] = shape_of(w);
  const std::size_t r = u.shape()[1];
  require_shape("add_unfolded", "u", shape_of(u), {m, r});
  require_shape("add_unfolded", "v", shape_of(v), {r, n});
  parallel_blocks(m, block_rows(m), [&, n = n](std::size_t begin, std::size_t end) {
    kernels().unfold({.w = w.data() + begin * n,
                      .first = begin,
                      .rows = end - begin,
                      .n = n,
                      .r = r,
                      .u = u.data() + begin * r,
                      .v = v.data()});
  });
}

}  // namespace gradview
