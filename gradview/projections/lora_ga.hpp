// lora_ga: lora that starts from the singular vectors of its first gradient.
//
//     G = U S Vᵀ:   v₀ = c V_Iᵀ,  u₀ = c U_J,  I and J disjoint halves of the first 2r
//     first step    s²(G v₀ᵀv₀ + u₀u₀ᵀ G) = ζ G_2r,  ζ = s²c²    the best of rank 2r
//
// Wang, Yu, Li: LoRA-GA: Low-Rank Adaptation with Gradient Approximation, 2024, arXiv:2407.05000.
// c = m^¼/√γ (stable, for rslora: ζ = α²√m/(γ r)), 1/s (gd: ζ = 1), 1 (unit), or the mean of √(σ/s)
// over the first r singular values of W (weightS). The paper's body prints γ for √γ; its algorithm
// and the authors' code have the root. The SVD is exact unless svd_niter asks for the authors'
// randomised one (they iterate 4 times, with 4r columns).
//
// variant=peft is PEFT's own lora_ga, another start: u₀ is scaled by the singular values of G too,
// c acts on u₀ alone (gd: on both; weightS: σ₁(W)/S_J₁), and random draws I = J.
//
// Where 2r > min(m, n) there are too few singular vectors: G_2r is G, u₀ and v₀ get zeros where none
// is left, never in one component at once, and the identity holds.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "gradview/core/randomized_svd.hpp"
#include "gradview/projections/lora_init.hpp"

namespace gradview {

class LoraGaInit final : public ZeroInit {  // and like zero while there is no gradient
 public:
  using ZeroInit::start;
  const char* name() const override { return "lora_ga"; }
  void declare(OptionSet& o) override {
    o.choice(
        "direction", direction_,
        {{"ArB2r", Direction::ArB2r},
         {"ArBr", Direction::ArBr},
         {"A2rBr", Direction::A2rBr},
         {"random", Direction::random}},
        "which of the first 2r singular vectors v and u get: the first r and the next; odd and "
        "even ones; the next and the first; halves at random");
    o.choice("scale", scale_,
             {{"stable", Scale::stable},
              {"gd", Scale::gd},
              {"unit", Scale::unit},
              {"weightS", Scale::weight}},
             "c: m^¼/√gamma, 1/s, 1, or after the singular values of W");
    o.number("gamma", gamma_, {.least = 0, .open_below = true}, "γ of scale=stable");
    o.choice("variant", variant_, {{"paper", Variant::paper}, {"peft", Variant::peft}},
             "peft: u by the singular values of the gradient as well, c on u alone");
    o.flag("norm_clip", norm_clip_, "shrink both until max|s u v| is at most max|W|");
    o.count("svd_niter", niter_, {.most = 1000},
            "power iterations of a randomised SVD of 4r triples; 0: the exact one");
  }
  bool has_product() const override { return true; }
  bool from_gradient() const override { return true; }
  std::string note(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    return 2 * place.rank > std::min(m, n) ? "lora_ga: 2r > min(m, n), all of the gradient" : "";
  }

  LoraPair start(const Gradient& g, const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const std::size_t r = place.rank, least = std::min(m, n);
    const Svd svd = decompose(g, place, std::min(4 * r, least));
    const auto [for_v, for_u] = halves(r, std::min(2 * r, least), place.site);
    LoraPair pair{zeros({m, r}), zeros({r, n})};
    const double c_v = variant_ == Variant::peft && scale_ != Scale::gd ? 1 : size(place);
    for (std::size_t k = 0; k < for_v.size(); ++k) {  // the last rows
      const std::size_t row = r - for_v.size() + k;
      for (std::size_t j = 0; j < n; ++j) {
        pair.v(row, j) = static_cast<Real>(c_v * svd.vt(for_v[k], j));
      }
    }
    if (!for_u.empty()) {
      const bool peft = variant_ == Variant::peft;
      const double c_u = peft ? peft_size(place, svd.singular[for_u[0]]) : size(place);
      for (std::size_t k = 0; k < for_u.size(); ++k) {  // the first columns
        const double c = peft ? c_u * svd.singular[for_u[k]] : c_u;
        for (std::size_t i = 0; i < m; ++i)
          pair.u(i, k) = static_cast<Real>(c * svd.u(i, for_u[k]));
      }
    }
    if (norm_clip_) clip(pair, place);
    return pair;
  }

 private:
  enum class Direction { ArB2r, ArBr, A2rBr, random };
  enum class Scale { stable, gd, unit, weight };
  enum class Variant { paper, peft };
  using Indices = std::vector<std::size_t>;

  Svd decompose(const Gradient& g, const LoraPlace& place, std::size_t triples) const {
    if (niter_ == 0) return svd(g.materialize());
    const auto [m, n] = place.shape();
    const Matrix draw = normal({triples, std::min(m, n)}, 1, place.site.rng(Purpose::init, 1));
    return randomized_svd(g, place.shape(), draw, niter_);
  }

  // Of the first `many` singular vectors, those of v and of u.
  std::pair<Indices, Indices> halves(std::size_t r, std::size_t many, const Site& site) const {
    Indices all(many);
    std::iota(all.begin(), all.end(), std::size_t{0});
    if (direction_ == Direction::ArBr) {
      Indices odd, even;
      for (const std::size_t i : all) (i % 2 == 1 ? odd : even).push_back(i);
      return {odd, even};
    }
    if (direction_ == Direction::random) {
      Stream rng = site.rng(Purpose::init, 2);
      for (std::size_t i = many; i > 1; --i) std::swap(all[i - 1], all[rng.below(i)]);
    }
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(r);  // r <= min(m, n)
    Indices first(all.begin(), middle), next(middle, all.end());
    if (direction_ == Direction::A2rBr) std::swap(first, next);
    if (direction_ == Direction::random && variant_ == Variant::peft) next = first;
    return {first, next};
  }

  double size(const LoraPlace& place) const {  // c
    switch (scale_) {
      case Scale::stable:
        return std::pow(static_cast<double>(place.shape().rows), 0.25) / std::sqrt(gamma_);
      case Scale::gd:
        return 1 / place.s;
      case Scale::unit:
        return 1;
      case Scale::weight:
        break;
    }
    const std::vector<double> of_w = svd(place.site.whole("scale=weightS of lora_ga")).singular;
    double sum = 0;
    for (std::size_t k = 0; k < place.rank; ++k) sum += std::sqrt(of_w[k] / place.s);
    return sum / static_cast<double>(place.rank);
  }
  double peft_size(const LoraPlace& place, double first) const {
    if (scale_ != Scale::weight) return size(place);
    return first > 0 ? svd(place.site.whole("scale=weightS of lora_ga")).singular[0] / first : 1;
  }

  static void clip(LoraPair& pair, const LoraPlace& place) {
    const auto largest = [](const Matrix& a) {
      Real most = 0;
      for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a.data()[i]));
      return static_cast<double>(most);
    };
    const double ratio = largest(place.site.whole("norm_clip of lora_ga")) /
                         (place.s * largest(matmul(pair.u, pair.v)));
    if (!(ratio < 1)) return;
    scale(pair.u, std::sqrt(ratio));
    scale(pair.v, std::sqrt(ratio));
  }

  Direction direction_ = Direction::ArB2r;
  Scale scale_ = Scale::stable;
  Variant variant_ = Variant::paper;
  double gamma_ = 16;
  bool norm_clip_ = false;
  std::size_t niter_ = 0;
};

}  // namespace gradview
