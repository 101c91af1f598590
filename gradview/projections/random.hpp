// random: frames redrawn every step, no persistent factors.
//
//     J (x, y) = c (x b + aᵀ y),   Jᵀ G = c (G bᵀ, a G);   a: r x m, b: r x n, E[aᵀa] = E[bᵀb] = I,
//     c² = 1/sides
//
// Su: LoRA from a gradient perspective: introduction, analysis, conjectures and extensions, blog
// post 9590, 2023, section on random projection, where r = 1, entries N(0, 1) and both terms are
// added as they are. Each term alone is unbiased, so their sum is 2G (2rG for r rows):
// normalise=raw keeps that, unbiased makes E[JJᵀG] = G. E‖JJᵀG − G‖² is known in closed form, see
// expectation(). refresh_every = 0 draws the frames once.
#pragma once

#include <cmath>

#include "gradview/projections/tangent.hpp"

namespace gradview {

class Random final : public Projector {
 public:
  enum class Family { gaussian, rademacher, haar };
  enum class Sides { both, left, right };
  enum class Normalise { unbiased, raw };
  struct Options {
    std::size_t rank = 1;
    Family family = Family::gaussian;
    Sides sides = Sides::both;
    std::size_t every = 1;
    Normalise normalise = Normalise::unbiased;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "rows of the frames a and b; capped at min(m, n)");
      o.choice("family", family,
               {{"gaussian", Family::gaussian},
                {"rademacher", Family::rademacher},
                {"haar", Family::haar}},
               "normal entries, random signs, or orthonormal rows of Haar measure");
      o.choice("sides", sides,
               {{"both", Sides::both}, {"left", Sides::left}, {"right", Sides::right}},
               "aᵀa G + G bᵀb, or one of them");
      o.count("refresh_every", every, {}, "steps between two draws; 0: the first frames stay");
      o.choice("normalise", normalise, {{"unbiased", Normalise::unbiased}, {"raw", Normalise::raw}},
               "E[JJᵀG] = G, or the article's 2rG");
    }
  };

  Random(const Options& o, const Site& site)
      : o_(o), shape_(site.shape()), rank_(capped_rank(o.rank, site.shape())) {
    scale_ = o.normalise == Normalise::raw ? std::sqrt(static_cast<double>(rank_))
                                           : (o.sides == Sides::both ? std::sqrt(0.5) : 1.0);
    draw(site, 0);
  }
  static Count count(const Options& o, Shape shape) {  // seed and step are the state
    const auto [m, n] = shape;
    const std::size_t r = capped_rank(o.rank, shape);
    return {.trained = r * ((o.sides == Sides::left ? 0 : m) + (o.sides == Sides::right ? 0 : n))};
  }

  Changes refresh(const Gradient&, const Site& site) override {
    const std::size_t first = o_.every == 0 ? 0 : site.step - site.step % o_.every;
    if (first == drawn_at_) return {};
    const bool changes_basis = first == site.step && site.transports;
    const Frames old = changes_basis ? frames(site, first - o_.every) : Frames();
    draw(site, first);
    if (!changes_basis) return {};
    Changes changes;
    if (has_right()) {
      changes.push_back(Change{
          .left = {}, .right = matmul_nt(old.b, now_.b), .contraction = contraction(shape_.cols)});
    }
    if (has_left()) {
      changes.push_back(Change{.left = matmul_tn(now_.at, old.at),
                               .right = {},
                               .contraction = contraction(shape_.rows)});
    }
    return changes;
  }
  Factors project(const Gradient& g, const Matrix&) const override {
    if (has_right() && has_left()) return pull_back(scale_, now_.at, now_.b, g);
    Factors out{has_right() ? matmul_nt(g, now_.b) : matmul_tn(now_.at, g)};
    scale(out[0], scale_);
    return out;
  }
  void lift(const Factors& d, Matrix& w) const override {
    if (has_right() && has_left()) return push_forward(scale_, now_.at, now_.b, d[0], d[1], w);
    add_products(w, scale_, {has_right() ? Product{d[0], now_.b} : Product{now_.at, d[0]}});
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    double sum = 0;
    if (has_right()) sum += product_entry(theta.front(), now_.b, i, j);
    if (has_left()) sum += product_entry(now_.at, theta.back(), i, j);
    return scale_ * sum;
  }

  std::size_t refresh_every() const override { return o_.every; }
  double transfer_growth() const override {  // of the factor whose frame has the longer rows
    const auto r = static_cast<double>(rank_);
    const double d =
        static_cast<double>(std::max(has_right() ? shape_.cols : 0, has_left() ? shape_.rows : 0));
    return (d + (o_.family == Family::gaussian     ? r + 1
                 : o_.family == Family::rademacher ? r - 1
                                                   : 0)) /
           r;
  }
  // With d = m + n over the sides in use: d/r times 1/sides² on average, the family deciding the
  // small term: gaussian (d + k)/r, rademacher (d − k)/r, haar (d − k r)/r for k sides; all times
  // (sum of scales)² for raw.
  std::optional<Expectation> expectation() const override {
    const double k = o_.sides == Sides::both ? 2 : 1;
    const auto r = static_cast<double>(rank_);
    const double d = static_cast<double>(has_right() ? shape_.cols : 0) +
                     static_cast<double>(has_left() ? shape_.rows : 0);
    const double small = o_.family == Family::gaussian     ? k
                         : o_.family == Family::rademacher ? -k
                                                           : -k * r;
    const double mean = scale_ * scale_ * k;
    return Expectation{mean, (mean / k) * (mean / k) * (d + small) / r};
  }

 private:
  struct Frames {
    Matrix at;  // aᵀ, m x r
    Matrix b;   // r x n
  };
  bool has_right() const { return o_.sides != Sides::left; }
  bool has_left() const { return o_.sides != Sides::right; }
  double contraction(std::size_t d) const {
    return static_cast<double>(rank_) / static_cast<double>(d);
  }
  Matrix frame(std::size_t d, Stream rng) const {  // r x d with E[FᵀF] = I
    const double deviation = 1 / std::sqrt(static_cast<double>(rank_));
    if (o_.family == Family::gaussian) return normal({rank_, d}, deviation, rng);
    Matrix f = o_.family == Family::haar ? haar_rows(rank_, d, rng) : rademacher({rank_, d}, rng);
    scale(f, o_.family == Family::haar ? std::sqrt(static_cast<double>(d)) * deviation : deviation);
    return f;
  }
  Frames frames(const Site& site, std::size_t step) const {
    Frames f;
    if (has_left()) f.at = transpose(frame(shape_.rows, site.rng(Purpose::left_frame, step)));
    if (has_right()) f.b = frame(shape_.cols, site.rng(Purpose::right_frame, step));
    return f;
  }
  void draw(const Site& site, std::size_t step) {
    now_ = frames(site, step);
    drawn_at_ = step;
  }

  Options o_;
  Shape shape_;
  std::size_t rank_;
  double scale_;
  Frames now_;
  std::size_t drawn_at_ = 0;
};

}  // namespace gradview
