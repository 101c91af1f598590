// loha: the entrywise product of two low-rank products, of rank up to r².
//
//     ΔW = s (u1 v1) ∘ (u2 v2),  s = alpha/r;     u1, u2: m x r, v1, v2: r x n
//     Jᵀ G = s ((G ∘ u2 v2) v1ᵀ, u1ᵀ (G ∘ u2 v2), (G ∘ u1 v1) v2ᵀ, u2ᵀ (G ∘ u1 v1))
//
// Hyeon-Woo, Ye-Bin, Oh: FedPara: Low-rank Hadamard Product for Communication-Efficient Federated
// Learning, 2021, arXiv:2108.06098 (which writes the whole of W so; here it is ΔW, as PEFT and
// LyCORIS do). With the products of all pairs of columns and of rows, ΔW = s (u1 ⊙ u2)(v1 ⊙ v2) is
// a plain product of rank r², and all four gradients are sums over G (v1 ⊙ v2)ᵀ and (u1 ⊙ u2)ᵀ G:
// a factored G is not formed while r² (m + n) < m n. One factor is zero at first: v2 as in PEFT
// (the others uniform: u in ±1/√r, v in ±1/√n), or u2 as in LyCORIS (v ~ N(0, 1), u1 ~ N(0, 0.1²)),
// whose live product is larger by 0.3 √(r n).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "gradview/core/parallel.hpp"
#include "gradview/projections/lora.hpp"

namespace gradview {

class Loha final : public Projector {
 public:
  enum class Init { peft, lycoris };
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    Init init = Init::peft;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u1 and u2; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank", "s = alpha/rank");
      o.choice("init", init, {{"peft", Init::peft}, {"lycoris", Init::lycoris}},
               "v2 = 0 and small uniform numbers, or u2 = 0 and normal ones");
    }
  };

  Loha(const Options& o, const Site& site)
      : s_(lora_scale(LoraScaling::standard, o.alpha.value_or(static_cast<double>(o.rank)),
                      o.rank)) {
    const auto [m, n] = site.shape();
    const std::size_t r = capped_rank(o.rank, site.shape());
    const auto kaiming = [&](Shape shape, std::size_t which) {
      const double bound = 1 / std::sqrt(static_cast<double>(shape.cols));
      return uniform(shape, -bound, bound, site.rng(Purpose::init, which));
    };
    if (o.init == Init::peft) {
      theta_ = {kaiming({m, r}, 0), kaiming({r, n}, 1), kaiming({m, r}, 2), zeros({r, n})};
    } else {
      theta_ = {normal({m, r}, 0.1, site.rng(Purpose::init, 0)),
                normal({r, n}, 1, site.rng(Purpose::init, 1)), zeros({m, r}),
                normal({r, n}, 1, site.rng(Purpose::init, 3))};
    }
  }
  static Count count(const Options& o, Shape shape) {
    return {.trained = 2 * capped_rank(o.rank, shape) * (shape.rows + shape.cols)};
  }

  Factors project(const Gradient& g, const Matrix&) const override {
    const auto [m, n] = g.shape();
    const std::size_t r = theta_[1].shape()[0];
    return g.factored() && r * r * (m + n) < m * n ? pull_thin(g) : pull_by_tiles(g);
  }
  void lift(const Factors& d, Matrix& w) const override {
    parallel_tiles(w.shape()[0], [&](std::size_t first, std::size_t end) {
      const std::size_t count = end - first;
      const Tile now[2] = {tile(0, first, count), tile(1, first, count)};
      for (const std::size_t k : {0, 1}) {
        Matrix change = zeros({count, w.shape()[1]});  // d(u_k v_k)
        push_forward(s_, now[k].u, theta_[2 * k + 1], rows(d[2 * k], first, count), d[2 * k + 1],
                     change);
        add_product(w, first, change, now[1 - k].product);
      }
    });
  }
  void retract(const Step& step, Matrix* w) override {
    const Factors& d = step.direction;
    if (w) {
      const Matrix moved[2] = {plus(theta_[1], d[1]), plus(theta_[3], d[3])};  // v1′, v2′
      parallel_tiles(w->shape()[0], [&](std::size_t first, std::size_t end) {
        const std::size_t count = end - first;
        Matrix product[2] = {tile(0, first, count).product, tile(1, first, count).product};
        for (const std::size_t k : {0, 1}) {  // d(u1 v1) ∘ (u2 v2), then (u1 v1)′ ∘ d(u2 v2)
          Matrix change = zeros({count, w->shape()[1]});
          push_forward(1, rows(theta_[2 * k], first, count), moved[k], rows(d[2 * k], first, count),
                       d[2 * k + 1], change);
          add_product(*w, first, scaled(change), product[1 - k]);
          axpy(product[k], 1, change);
        }
      });
    }
    move_factors(d);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return s_ * product_entry(theta[0], theta[1], i, j) * product_entry(theta[2], theta[3], i, j);
  }
  std::optional<LowRank> product() const override {
    return LowRank{pairs_of_columns(), pairs_of_rows(), s_};
  }
  void fields(const Visit& visit) override {
    const char* const names[] = {"u1", "v1", "u2", "v2"};
    for (std::size_t k = 0; k < 4; ++k) visit(names[k], theta_[k], Role::trained);
  }
  bool linear() const override { return false; }

 private:
  struct Tile {
    Matrix u;        // rows of u_k
    Matrix product;  // times v_k
  };
  Tile tile(std::size_t k, std::size_t first, std::size_t count) const {
    Tile out{rows(theta_[2 * k], first, count), {}};
    out.product = matmul(out.u, theta_[2 * k + 1]);
    return out;
  }
  static Matrix plus(Matrix a, const Matrix& b) {
    axpy(a, 1, b);
    return a;
  }
  Matrix scaled(Matrix a) const {
    scale(a, s_);
    return a;
  }
  // rows first … of w += a ∘ b
  static void add_product(Matrix& w, std::size_t first, const Matrix& a, const Matrix& b) {
    Real* to = w.data() + first * w.shape()[1];
    for (std::size_t k = 0; k < a.size(); ++k) to[k] += a.data()[k] * b.data()[k];
  }
  Matrix pairs_of_rows() const {  // v1 ⊙ v2: row k r + l is v1_k ∘ v2_l    (r² x n)
    const auto [r, n] = shape_of(theta_[1]);
    Matrix out = zeros({r * r, n});
    for (std::size_t row = 0; row < r * r; ++row) {
      for (std::size_t j = 0; j < n; ++j)
        out(row, j) = theta_[1](row / r, j) * theta_[3](row % r, j);
    }
    return out;
  }
  Matrix pairs_of_columns() const {  // u1 ⊙ u2: column k r + l is u1_k ∘ u2_l    (m x r²)
    const auto [m, r] = shape_of(theta_[0]);
    Matrix out = zeros({m, r * r});
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t c = 0; c < r * r; ++c) out(i, c) = theta_[0](i, c / r) * theta_[2](i, c % r);
    }
    return out;
  }
  Factors pull_thin(const Gradient& g) const {
    const auto& [u1, v1, u2, v2] = theta_;
    const Matrix right = matmul_nt(g, pairs_of_rows());    // m x r²
    const Matrix left = matmul_tn(pairs_of_columns(), g);  // r² x n
    Factors out;
    for (const Matrix& factor : theta_) out.push_back(zeros(shape_of(factor)));
    const std::size_t r = v1.shape()[0];
    for (std::size_t i = 0; i < u1.shape()[0]; ++i) {
      for (std::size_t c = 0; c < r * r; ++c) {
        out[0](i, c / r) += right(i, c) * u2(i, c % r);
        out[2](i, c % r) += right(i, c) * u1(i, c / r);
      }
    }
    for (std::size_t c = 0; c < r * r; ++c) {
      for (std::size_t j = 0; j < v1.shape()[1]; ++j) {
        out[1](c / r, j) += left(c, j) * v2(c % r, j);
        out[3](c % r, j) += left(c, j) * v1(c / r, j);
      }
    }
    for (Matrix& factor : out) scale(factor, s_);
    return out;
  }
  Factors pull_by_tiles(const Gradient& g) const {
    Factors out;
    for (const Matrix& factor : theta_) out.push_back(zeros(shape_of(factor)));
    const auto [m, r] = shape_of(theta_[0]);
    constexpr std::size_t kRows = 256;  // of G at a time
    for (std::size_t first = 0; first < m; first += kRows) {
      const std::size_t count = std::min(kRows, m - first);
      const Matrix of_g = g.materialize_rows(first, count);
      const Tile now[2] = {tile(0, first, count), tile(1, first, count)};
      for (const std::size_t k : {0, 1}) {
        Matrix masked = zeros(shape_of(of_g));  // G ∘ (the other product)
        add_product(masked, 0, of_g, now[1 - k].product);
        scale(masked, s_);
        const Matrix du = matmul_nt(masked, theta_[2 * k + 1]);
        std::copy_n(du.data(), du.size(), out[2 * k].data() + first * r);
        add_matmul_tn(out[2 * k + 1], 1, now[k].u, masked);
      }
    }
    return out;
  }

  double s_;
  std::array<Matrix, 4> theta_;  // u1, v1, u2, v2
};

}  // namespace gradview
