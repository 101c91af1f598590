// Every set of kernels that this CPU runs against the plain loops, at sizes that no tile divides; and
// what is built on them against its definition, with the same bits for any number of threads.
#include "gradview/core/kernels/kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/core/thin.hpp"
#include "gradview/optim/rules.hpp"

namespace gradview {
namespace {

constexpr double kEps = std::numeric_limits<Real>::epsilon();

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "kernels", which));
}

Matrix absolute(Matrix a) {
  for (std::size_t k = 0; k < a.size(); ++k) a.data()[k] = std::abs(a.data()[k]);
  return a;
}

// |got − wanted| <= (terms + 3) ε scale, entry by entry: what a sum of so many terms rounds to.
testing::AssertionResult near(const Matrix& got, const Matrix& wanted, const Matrix& scale,
                              std::size_t terms) {
  if (shape_of(got) != shape_of(wanted)) return testing::AssertionFailure() << "shapes";
  for (std::size_t k = 0; k < got.size(); ++k) {
    const double bound = (static_cast<double>(terms) + 3) * kEps * scale.data()[k];
    const double off = std::abs(static_cast<double>(got.data()[k]) - wanted.data()[k]);
    if (!(off <= bound)) {
      return testing::AssertionFailure()
             << "entry " << k << ": " << got.data()[k] << ", not " << wanted.data()[k];
    }
  }
  return testing::AssertionSuccess();
}

bool same_bits(const Matrix& a, const Matrix& b) {
  return shape_of(a) == shape_of(b) &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)) == 0;
}

// The result of a block kernel over an array, with room before and after that must not change.
class Guarded {
 public:
  explicit Guarded(Matrix a) : a_(std::move(a)), data_(a_.size() + 2 * kRoom, kMark) {
    std::copy_n(a_.data(), a_.size(), data());
  }
  Real* data() { return data_.data() + kRoom; }
  Matrix take() {
    for (std::size_t k = 0; k < kRoom; ++k) {
      EXPECT_EQ(data_[k], kMark) << "written before the array";
      EXPECT_EQ(data_[data_.size() - 1 - k], kMark) << "written behind the array";
    }
    std::copy_n(data(), a_.size(), a_.data());
    return a_;
  }

 private:
  static constexpr std::size_t kRoom = 40;
  static constexpr Real kMark = 12345;
  Matrix a_;
  std::vector<Real> data_;
};

struct Thin {
  Matrix p, h;
};

Thin run_thin(const Kernels& set, const Matrix& a, const Matrix& v, const Matrix& q,
              const Matrix& h, bool right, bool left) {
  const auto [rows, n] = shape_of(a);
  const std::size_t r = v.shape()[0];
  Matrix packed_v = zeros({1, set.thin_size(r, n)});
  Matrix packed_h = packed_v;
  set.thin_pack({v.data(), n, 1}, r, n, packed_v.data());
  Guarded p(zeros({rows, r}));
  Guarded sums(packed_h);
  set.thin({.a = a.data(),
            .lda = n,
            .rows = rows,
            .n = n,
            .r = r,
            .v = right ? packed_v.data() : nullptr,
            .p = right ? p.data() : nullptr,
            .q = left ? q.data() : nullptr,
            .h = left ? sums.data() : nullptr});
  const Matrix got = sums.take();
  Guarded out(h);
  set.thin_add(got.data(), r, n, Real{1}, out.data(), n, 1);
  return {p.take(), out.take()};
}

class EverySet : public testing::TestWithParam<std::size_t> {
 protected:
  const Kernels& set() const { return kernels_of_this_cpu()[GetParam()]; }
};

TEST_P(EverySet, GivesBothThinProductsOfABlock) {
  for (const std::size_t rows : {1, 5, 6, 7, 8, 17}) {
    for (const std::size_t n : {1, 7, 16, 33, 130}) {
      for (const std::size_t r : {1, 2, 3, 4, 5, 8, 11}) {
        const Matrix a = draw({rows, n}, 1);
        const Matrix v = draw({r, n}, 2);
        const Matrix q = draw({rows, r}, 3);
        const Matrix h = draw({r, n}, 4);
        const Matrix p_scale = matmul_nt(absolute(a), absolute(v));
        Matrix h_scale = absolute(h);
        add_matmul_tn(h_scale, 1, absolute(q), absolute(a));
        for (const int sides : {1, 2, 3}) {
          const bool right = sides & 1;
          const bool left = sides & 2;
          const Thin got = run_thin(set(), a, v, q, h, right, left);
          const Thin wanted = run_thin(plain_kernels(), a, v, q, h, right, left);
          EXPECT_TRUE(near(got.p, wanted.p, p_scale, n)) << rows << " " << n << " " << r;
          EXPECT_TRUE(near(got.h, wanted.h, h_scale, rows)) << rows << " " << n << " " << r;
        }
      }
    }
  }
}

TEST_P(EverySet, PacksAThinMatrixByAnyStrides) {
  const Matrix u = draw({33, 6}, 1);
  Matrix packed = zeros({1, set().thin_size(6, 33)});
  set().thin_pack({u.data(), 1, 6}, 6, 33, packed.data());
  Matrix back = zeros({33, 6});
  set().thin_add(packed.data(), 6, 33, Real{1}, back.data(), 1, 6);
  EXPECT_TRUE(same_bits(back, u));
}

TEST_P(EverySet, AddsAThinProductToABlock) {
  for (const std::size_t rows : {1, 4, 6, 13}) {
    for (const std::size_t n : {1, 15, 64, 67, 200}) {
      for (const std::size_t k : {1, 2, 5, 16}) {
        const Matrix w = draw({rows, n}, 1);
        const Matrix left = draw({rows, k}, 2);
        const Matrix right = draw({k, n}, 3);
        const auto run = [&](const Kernels& kernels) {
          Guarded packed(zeros({1, kernels.update_size(k, n)}));
          kernels.update_pack({right.data(), n, 1}, 1, n, 0, k, packed.data());
          kernels.update_pack({right.data() + n, n, 1}, k - 1, n, 1, k, packed.data());
          Guarded out(w);
          kernels.update({.w = out.data(),
                          .rows = rows,
                          .n = n,
                          .k = k,
                          .left = left.data(),
                          .right = packed.data()});
          packed.take();
          return out.take();
        };
        Matrix scale = absolute(w);
        add_matmul(scale, 1, absolute(left), absolute(right));
        EXPECT_TRUE(near(run(set()), run(plain_kernels()), scale, k))
            << rows << " " << n << " " << k;
      }
    }
  }
}

TEST_P(EverySet, FoldsAndUnfoldsByStrides) {
  for (const std::size_t n : {1, 63, 64, 300, 700}) {
    for (const std::size_t r : {1, 2, 3, 7, 64, 100, 300}) {
      const Matrix a = draw({5, n}, 1);
      const Matrix u = draw({5, r}, 2);
      const Matrix v = draw({r, n}, 3);
      const auto run = [&](const Kernels& kernels, int sides) {
        Guarded columns(zeros({5, r}));
        Guarded sums(v);
        kernels.fold({.a = a.data(),
                      .first = 2,
                      .rows = 5,
                      .n = n,
                      .r = r,
                      .columns = sides & 1 ? columns.data() : nullptr,
                      .rows_sum = sides & 2 ? sums.data() : nullptr});
        return Sides{columns.take(), sums.take()};
      };
      const Sides all = run(plain_kernels(), 3);
      Matrix column_scale = zeros({5, r});
      Matrix row_scale = absolute(v);
      for (std::size_t i = 0; i < 5; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
          column_scale(i, j % r) += std::abs(a(i, j));
          row_scale((2 + i) % r, j) += std::abs(a(i, j));
        }
      }
      for (const int sides : {1, 2, 3}) {
        const Sides got = run(set(), sides);
        EXPECT_TRUE(near(got.right, sides & 1 ? all.right : zeros({5, r}), column_scale, n)) << r;
        EXPECT_TRUE(near(got.left, sides & 2 ? all.left : v, row_scale, 5)) << r;
      }
      const auto unfolded = [&](const Kernels& kernels) {
        Guarded w(a);
        kernels.unfold(
            {.w = w.data(), .first = 2, .rows = 5, .n = n, .r = r, .u = u.data(), .v = v.data()});
        return w.take();
      };
      EXPECT_TRUE(same_bits(unfolded(set()), unfolded(plain_kernels()))) << n << " " << r;
    }
  }
}

TEST_P(EverySet, StepsAsTheRulesAreWritten) {
  const AdamStep step{.beta1 = Real(0.9),
                      .beta2 = Real(0.99),
                      .rest1 = Real(0.1),
                      .rest2 = Real(0.01),
                      .first_scale = Real(1.7),
                      .root_scale = Real(1.3),
                      .eps = Real(1e-3)};
  const Move move{.lr = Real(0.2), .keep = Real(0.99), .pull = Real(0.05)};
  using Run = std::function<void(const Kernels&, Real* w, Real* g, Real* m, Real* v)>;
  const std::pair<const char*, Run> runs[] = {
      {"adam",
       [&](const Kernels& k, Real*, Real* g, Real* m, Real* v) { k.adam(step, 67, g, m, v); }},
      {"adam without β₁",
       [&](const Kernels& k, Real*, Real* g, Real*, Real* v) { k.adam(step, 67, g, nullptr, v); }},
      {"adam that moves", [&](const Kernels& k, Real* w, Real* g, Real* m,
                              Real* v) { k.adam_move(step, move, 67, w, g, m, v); }},
      {"adam without β₁ that moves",
       [&](const Kernels& k, Real* w, Real* g, Real*, Real* v) {
         k.adam_move(step, move, 67, w, g, nullptr, v);
       }},
      {"momentum, first", [&](const Kernels& k, Real*, Real* g, Real* m,
                              Real*) { k.momentum(Real(0.9), true, false, 67, g, m); }},
      {"Nesterov", [&](const Kernels& k, Real*, Real* g, Real* m,
                       Real*) { k.momentum(Real(0.9), false, true, 67, g, m); }},
      {"momentum that moves",
       [&](const Kernels& k, Real* w, Real* g, Real* m, Real*) {
         k.momentum_move(Real(0.9), false, true, move, 67, w, g, m);
       }},
      {"plain descent", [&](const Kernels& k, Real* w, Real* g, Real*,
                            Real*) { k.momentum_move(0, true, false, move, 67, w, g, nullptr); }},
  };
  for (const auto& [name, run] : runs) {
    Guarded got[4] = {Guarded(draw({1, 67}, 1)), Guarded(draw({1, 67}, 2)),
                      Guarded(draw({1, 67}, 3)), Guarded(absolute(draw({1, 67}, 4)))};
    Guarded wanted[4] = {got[0], got[1], got[2], got[3]};
    run(set(), got[0].data(), got[1].data(), got[2].data(), got[3].data());
    run(plain_kernels(), wanted[0].data(), wanted[1].data(), wanted[2].data(), wanted[3].data());
    for (std::size_t k = 0; k < 4; ++k) {  // no sums: the same operations, the same bits
      EXPECT_TRUE(same_bits(got[k].take(), wanted[k].take())) << name << ", array " << k;
    }
  }
}

TEST_P(EverySet, DrawsTheSameNumbersAsAnyOther) {
  const RandomBlocks blocks{{4294967200U, 2, 3, 4}, {5, 6}, 150};  // the counter wraps
  const auto draw_all = [&](const Kernels& k) {
    Matrix out = zeros({3, 300});
    k.normals(blocks, 0.7, out.data());
    k.uniforms(blocks, -2, 5, out.data() + 300);
    k.signs(blocks, out.data() + 600);
    return out;
  };
  EXPECT_TRUE(same_bits(draw_all(set()), draw_all(plain_kernels())));
}

TEST_P(EverySet, LetsNotANumberThrough) {
  Matrix a = draw({7, 40}, 1);
  a(3, 20) = std::numeric_limits<Real>::quiet_NaN();
  const Thin got =
      run_thin(set(), a, draw({3, 40}, 2), draw({7, 3}, 3), zeros({3, 40}), true, true);
  EXPECT_TRUE(std::isnan(got.p(3, 0)));
  EXPECT_TRUE(std::isnan(got.h(2, 20)));
  EXPECT_TRUE(std::isfinite(got.p(2, 0)));
}

INSTANTIATE_TEST_SUITE_P(Kernels, EverySet,
                         testing::Range<std::size_t>(0, kernels_of_this_cpu().size()),
                         [](const auto& set) {
                           return std::string(kernels_of_this_cpu()[set.param].isa);
                         });

// What a step is made of, in the bits of one thread whatever the number of threads.
TEST(Threads, DoNotChangeTheBits) {
  const std::size_t m = 331;
  const std::size_t n = 523;
  const std::size_t tokens = 217;
  const Matrix a = draw({m, n}, 1);
  const Matrix delta = draw({tokens, m}, 2);
  const Matrix x = draw({tokens, n}, 3);
  const SharedMatrix shared_delta = share(delta);
  const SharedMatrix shared_x = share(x);
  const auto results = [&](std::size_t r) {
    const Matrix u = draw({m, r}, 4);
    const Matrix v = draw({r, n}, 5);
    Gradient g = Gradient::outer(shared_delta, shared_x);
    g.add(Gradient::dense(a), 0.5);
    std::vector<Matrix> out;
    const auto keep = [&](Sides s) {
      out.push_back(std::move(s.right));
      out.push_back(std::move(s.left));
    };
    keep(sides(g, u, v));
    keep(folded(g, r));
    out.push_back(matmul_nt(g, v));
    out.push_back(matmul_tn(u, g));
    out.push_back(g.materialize());
    out.push_back(a);
    add_products(out.back(), 0.5, {{u, v}, {u, v}});
    add_unfolded(out.back(), u, v);
    const Adam adam;
    Moments moments = adam.start({m, n});
    Matrix w = a;
    Matrix direction = g.materialize();
    adam.move(w, direction, moments, {.lr = Real(0.1)});
    out.push_back(w);
    out.push_back(matmul(u, v));
    return out;
  };
  for (const std::size_t r : {1, 3, 8, 40}) {
    const std::vector<Matrix> one = results(r);
    for (const std::size_t threads : {2, 3, 8}) {
      set_threads(threads);
      const std::vector<Matrix> many = results(r);
      for (std::size_t k = 0; k < one.size(); ++k) {
        EXPECT_TRUE(same_bits(one[k], many[k])) << r << ", result " << k << ", " << threads;
      }
    }
    set_threads(1);
  }
}

TEST(Sides, AreThoseOfTheFormedGradient) {
  for (const std::size_t tokens : {1, 50, 300}) {
    for (const std::size_t r : {1, 4, 7, 40}) {
      const std::size_t m = 45;
      const std::size_t n = 70;
      const Matrix delta = draw({tokens, m}, 1);
      const Matrix x = draw({tokens, n}, 2);
      const Matrix u = draw({m, r}, 3);
      const Matrix v = draw({r, n}, 4);
      Gradient g(Shape{m, n});
      g.add(Gradient::outer(share(delta), share(x)), -0.5);
      const Matrix formed = g.materialize();
      const Sides got = sides(g, u, v);
      const Matrix size = matmul_tn(absolute(delta), absolute(x));
      EXPECT_TRUE(near(got.right, matmul_nt(formed, v), matmul_nt(size, absolute(v)), tokens + n));
      EXPECT_TRUE(near(got.left, matmul_tn(u, formed), matmul_tn(absolute(u), size), tokens + m));
      const Sides dense = sides(Gradient::dense(formed), u, v);
      EXPECT_TRUE(near(dense.right, matmul_nt(formed, v), matmul_nt(size, absolute(v)), n));
      EXPECT_TRUE(near(dense.left, matmul_tn(u, formed), matmul_tn(absolute(u), size), m));
      EXPECT_TRUE(near(matmul_nt(g, v), got.right, matmul_nt(size, absolute(v)), tokens + n));
      EXPECT_TRUE(near(matmul_tn(u, g), got.left, matmul_tn(absolute(u), size), tokens + m));
      EXPECT_TRUE(near(g.materialize_rows(3, 20), rows(formed, 3, 20), rows(size, 3, 20), tokens));
    }
  }
}

// W after many steps of u and v, against u v in double: the two-product difference loses digits that
// the delta form keeps.
TEST(AddProducts, InDeltaFormRoundsLessThanADifferenceOfProducts) {
  const std::size_t m = 96;
  const std::size_t n = 80;
  const std::size_t r = 4;
  Matrix u = draw({m, r}, 1);
  Matrix v = draw({r, n}, 2);
  const Matrix u0 = u;
  const Matrix v0 = v;
  Matrix delta_form = zeros({m, n});
  Matrix difference_form = zeros({m, n});
  for (std::size_t step = 0; step < 300; ++step) {
    Matrix du = draw({m, r}, 10 + 2 * step);
    Matrix dv = draw({r, n}, 11 + 2 * step);
    scale(du, 1e-3);
    scale(dv, 1e-3);
    add_products(difference_form, -1, {{u, v}});
    Matrix old_u = u;
    axpy(u, 1, du);
    axpy(v, 1, dv);
    const Matrix moved_u = difference(u, old_u);  // what u moved by, after rounding
    add_products(delta_form, 1, {{moved_u, v}, {old_u, dv}});
    add_products(difference_form, 1, {{u, v}});
  }
  double delta_error = 0;
  double difference_error = 0;
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double exact = 0;
      for (std::size_t k = 0; k < r; ++k) {
        exact += static_cast<double>(u(i, k)) * v(k, j) - static_cast<double>(u0(i, k)) * v0(k, j);
      }
      delta_error += std::pow(delta_form(i, j) - exact, 2);
      difference_error += std::pow(difference_form(i, j) - exact, 2);
    }
  }
  EXPECT_LT(std::sqrt(delta_error), 0.6 * std::sqrt(difference_error));
}

}  // namespace
}  // namespace gradview
