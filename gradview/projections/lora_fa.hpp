// lora_fa: LoRA whose right factor stays at its random start.     ΔW = s u v₀,  s = alpha/r
//
//     Jᵀ G = s G v₀ᵀ        correction=peft: s⁻² (s G v₀ᵀ)(v₀v₀ᵀ + 1e-8 I)⁻¹, so that J Jᵀ G = G Π_v
//
// Zhang, Zhang, Shi, Chu, Li: LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models
// Fine-tuning, 2023, arXiv:2308.03303. The paper trains u by its own gradient; PEFT's optimizer makes
// the step of the weight the nearest one to G that v₀ allows.
#pragma once

#include "gradview/projections/lora.hpp"

namespace gradview {

class LoraFa final : public Projector {
 public:
  enum class Correction { none, peft };
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    Correction correction = Correction::none;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank", "s = alpha/rank");
      o.choice("correction", correction, {{"none", Correction::none}, {"peft", Correction::peft}},
               "peft: the gradient of u by s⁻²(v vᵀ)⁻¹, so that the step of W is G Π_v");
    }
  };
  LoraFa(const Options& o, const Site& site)
      : s_(lora_scale(LoraScaling::standard, o.alpha.value_or(static_cast<double>(o.rank)),
                      o.rank)),
        correction_(o.correction) {
    const auto [m, n] = site.shape();
    const std::size_t r = capped_rank(o.rank, site.shape());
    const double bound = 1 / std::sqrt(static_cast<double>(n));
    u_ = zeros({m, r});
    v_ = uniform({r, n}, -bound, bound, site.rng(Purpose::init));
  }
  static Count count(const Options& o, Shape shape) {
    const std::size_t r = capped_rank(o.rank, shape);
    return {.trained = r * shape.rows, .stored = r * shape.cols};
  }

  void start(const Gradient&, const Site&) override { knows_start_ = has_no_product(u_, v_); }
  Factors project(const Gradient& g, const Matrix&) const override {
    Factors out{matmul_nt(g, v_)};
    scale(out[0], s_);
    return out;
  }
  void precondition(Factors& g, const Site&) const override {
    if (correction_ == Correction::none) return;
    g[0] = matmul(g[0], damped_inverse(matmul_nt(v_, v_), 1e-8));
    scale(g[0], 1 / (s_ * s_));
  }
  void lift(const Factors& d, Matrix& w) const override { add_products(w, s_, {{d[0], v_}}); }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return s_ * product_entry(theta[0], v_, i, j);
  }
  std::optional<LowRank> product() const override {
    return knows_start_ ? std::optional(LowRank{u_, v_, s_}) : std::nullopt;
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::frozen);
  }

 private:
  double s_;
  Correction correction_;
  bool knows_start_ = true;  // false: u has been set from outside
  Matrix u_, v_;
};

}  // namespace gradview
