// lora_fa: LoRA whose right factor stays at its random start.     ΔW = s u v₀,  s = alpha/r;  Jᵀ G
// = s G v₀ᵀ Zhang et al.: LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models
// Fine-tuning, 2023, arXiv:2308.03303.
#pragma once

#include "gradview/projections/lora.hpp"

namespace gradview {

class LoraFa final : public Projector {
 public:
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank", "s = alpha/rank");
    }
  };
  LoraFa(const Options& o, const Site& site)
      : s_(lora_scale(LoraScaling::standard, o.alpha.value_or(static_cast<double>(o.rank)),
                      o.rank)) {
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

  Factors project(const Gradient& g, const Matrix&) const override {
    Factors out{matmul_nt(g, v_)};
    scale(out[0], s_);
    return out;
  }
  void lift(const Factors& d, Matrix& w) const override { add_matmul(w, s_, d[0], v_); }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return s_ * product_entry(theta[0], v_, i, j);
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::frozen);
  }

 private:
  double s_;
  Matrix u_, v_;
};

}  // namespace gradview
