// lokr: the Kronecker product of two small matrices.
//
//     ΔW = s w1 ⊗ w2,  s = alpha/r;     w1: m1 x n1, w2: m2 x n2, m = m1 m2, n = n1 n2
//     ∂/∂w1_ij = s ⟨G_ij, w2⟩,   ∂/∂w2 = s Σ_ij w1_ij G_ij     G_ij: the blocks of G, m2 x n2
//
// Yeh et al.: Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation,
// 2023, arXiv:2309.14859, after Edalati et al.: KronA, 2022, arXiv:2212.10650. As in PEFT, w1 has
// the largest divisors of m and n up to their roots, or `factor` of each; w2 is a product w2_a w2_b
// of rank r where 2 r < max(m2, n2) (decompose=auto), and w1 likewise by decompose=both; s divides
// by r even where nothing has that rank. One side is zero at first: w1 as in PEFT, or w2 as in
// LyCORIS; the rest is uniform in ±1/√columns. PEFT takes the next smaller divisor where factor
// does not divide; here that is an error. A factored G is formed only where blocks are so uneven
// that m n < 2 (m n1 + n m2).
#pragma once

#include <array>
#include <cmath>
#include <stdexcept>

#include "gradview/projections/lora.hpp"

namespace gradview {

class Lokr final : public Projector {
 public:
  static constexpr bool kCapsRank = false;
  enum class Init { peft, lycoris };
  enum class Decompose { automatic, none, both };
  struct Options {
    std::size_t rank = 8, factor = 0;
    std::optional<double> alpha;
    Decompose decompose = Decompose::automatic;
    Init init = Init::peft;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "of a side that is decomposed; s = alpha/rank always");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank", "s = alpha/rank");
      o.count("factor", factor, {.least = 0},
              "rows and columns of w1; must divide m and n; 0: divisors nearest to √m and √n");
      o.choice(
          "decompose", decompose,
          {{"auto", Decompose::automatic}, {"none", Decompose::none}, {"both", Decompose::both}},
          "w2 as w2_a w2_b where rank is below half its size; nothing; or w1 likewise too");
      o.choice("init", init, {{"peft", Init::peft}, {"lycoris", Init::lycoris}},
               "w1 = 0 at first, or w2 = 0");
    }
  };

  Lokr(const Options& o, const Site& site)
      : s_(lora_scale(LoraScaling::standard, o.alpha.value_or(static_cast<double>(o.rank)),
                      o.rank)) {
    const std::array<Shape, 2> shapes = sides(o, site.shape());
    for (std::size_t k = 0; k < 2; ++k) {
      const auto [m, n] = shapes[k];
      const bool zero = (o.init == Init::peft) == (k == 0);
      const auto kaiming = [&](Shape shape, std::size_t which) {
        const double bound = 1 / std::sqrt(static_cast<double>(shape.cols));
        return uniform(shape, -bound, bound, site.rng(Purpose::init, 2 * k + which));
      };
      if (!decomposed(o, k, shapes[k])) {
        sides_[k] = {zero ? zeros({m, n}) : kaiming({m, n}, 0), {}};
      } else if (k == 0) {
        sides_[k] = {zero ? zeros({m, o.rank}) : kaiming({m, o.rank}, 0), kaiming({o.rank, n}, 1)};
      } else {
        sides_[k] = {kaiming({m, o.rank}, 0), zero ? zeros({o.rank, n}) : kaiming({o.rank, n}, 1)};
      }
    }
  }
  static Count count(const Options& o, Shape shape) {
    const std::array<Shape, 2> shapes = sides(o, shape);
    Count all;
    for (std::size_t k = 0; k < 2; ++k) {
      const auto [m, n] = shapes[k];
      all.trained += decomposed(o, k, shapes[k]) ? o.rank * (m + n) : m * n;
    }
    return all;
  }

  Factors project(const Gradient& g, const Matrix&) const override {
    const auto [m, n] = g.shape();
    const Matrix w1 = sides_[0].value();
    const Matrix w2 = sides_[1].value();
    const bool uneven = 2 * (m * w1.shape()[1] + n * w2.shape()[0]) > m * n;
    const Gradient seen = g.factored() && uneven ? Gradient::dense(g.materialize()) : g;
    Factors out;
    sides_[0].pull(block_dots(seen, w2), s_, out);
    sides_[1].pull(block_sum(seen, w1), s_, out);
    return out;
  }
  void lift(const Factors& d, Matrix& w) const override {
    auto next = d.begin();
    const Matrix d1 = sides_[0].push(next);
    const Matrix d2 = sides_[1].push(next);
    add_kronecker(w, s_, d1, sides_[1].value());
    add_kronecker(w, s_, sides_[0].value(), d2);
  }
  void retract(const Step& step, Matrix* w) override {
    auto next = step.direction.begin();
    const Matrix w1 = sides_[0].value();
    const Matrix d1 = sides_[0].move(next);
    const Matrix d2 = sides_[1].move(next);
    if (!w) return;
    add_kronecker(*w, s_, d1, sides_[1].value());  // dw1 ⊗ (w2 + dw2) + w1 ⊗ dw2
    add_kronecker(*w, s_, w1, d2);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    const Shape block = sides_[1].shape();
    auto next = theta.begin();
    const double left = sides_[0].entry(next, i / block.rows, j / block.cols);
    return s_ * left * sides_[1].entry(next, i % block.rows, j % block.cols);
  }
  void fields(const Visit& visit) override {
    sides_[0].fields("w1", visit);
    sides_[1].fields("w2", visit);
  }
  bool linear() const override { return false; }
  std::string note() const override {
    return to_string(sides_[0].shape()) + " ⊗ " + to_string(sides_[1].shape());
  }

 private:
  using Next = Factors::const_iterator;

  struct Side {  // a, or a b where b is there
    Matrix a, b;

    bool whole() const { return b.size() == 0; }
    Shape shape() const { return {a.shape()[0], whole() ? a.shape()[1] : b.shape()[1]}; }
    Matrix value() const { return whole() ? a : matmul(a, b); }
    void pull(Matrix g, double s, Factors& out) const {
      scale(g, s);
      if (!whole()) out.push_back(matmul_nt(g, b));
      out.push_back(whole() ? std::move(g) : matmul_tn(a, g));
    }
    Matrix push(Next& d) const {
      if (whole()) return *d++;
      Matrix out = zeros(shape());
      push_forward(1, a, b, d[0], d[1], out);
      d += 2;
      return out;
    }
    Matrix move(Next& d) {  // the change of value()
      if (whole()) {
        axpy(a, 1, *d);
        return *d++;
      }
      axpy(b, 1, d[1]);
      const Matrix& da = d[0];
      Matrix out = push(d);
      axpy(a, 1, da);
      return out;
    }
    double entry(Next& theta, std::size_t i, std::size_t j) const {
      if (whole()) return (*theta++)(i, j);
      theta += 2;
      return product_entry(theta[-2], theta[-1], i, j);
    }
    void fields(const std::string& name, const Visit& visit) {
      visit(whole() ? name : name + "_a", a, Role::trained);
      if (!whole()) visit(name + "_b", b, Role::trained);
    }
  };

  static std::array<Shape, 2> sides(const Options& o, Shape shape) {
    if (o.factor > 0 && (shape.rows % o.factor != 0 || shape.cols % o.factor != 0)) {
      std::string choices;
      for (std::size_t f = 1; f <= std::min(shape.rows, shape.cols); ++f) {
        if (shape.rows % f == 0 && shape.cols % f == 0) choices += std::to_string(f) + ", ";
      }
      throw std::invalid_argument("lokr: factor " + std::to_string(o.factor) +
                                  " does not divide both sides of " + to_string(shape) +
                                  "; there are " + choices + "and 0 for the nearest to the roots");
    }
    const Shape left{o.factor ? o.factor : below_root(shape.rows),
                     o.factor ? o.factor : below_root(shape.cols)};
    return {left, {shape.rows / left.rows, shape.cols / left.cols}};
  }
  static std::size_t below_root(std::size_t size) {  // the largest divisor up to √size
    std::size_t best = 1;
    for (std::size_t d = 1; d * d <= size; ++d) {
      if (size % d == 0) best = d;
    }
    return best;
  }
  static bool decomposed(const Options& o, std::size_t side, Shape shape) {
    if (o.decompose == Decompose::none) return false;
    if (side == 0 && o.decompose != Decompose::both) return false;
    return 2.0 * static_cast<double>(o.rank) <
           static_cast<double>(std::max(shape.rows, shape.cols));
  }

  double s_;
  std::array<Side, 2> sides_;  // w1, w2
};

}  // namespace gradview
