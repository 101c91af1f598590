// lora: low-rank adaptation.     ΔW = s u v,  s = alpha/r (standard) or alpha/√r (rslora)
//
//     Jᵀ G = s (G vᵀ, uᵀ G)       W' − W = s (du (v + dv) + u dv)       u: m x r, v: r x n
//
// Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv:2106.09685 (B = u, A =
// v). Kalajdzievski: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023,
// arXiv:2312.03732. Hayou, Ghosh, Yu: LoRA+: Efficient Low Rank Adaptation of Large Models, 2024,
// arXiv:2402.12354: u learns at lr_ratio · lr. Their u is the factor that starts at zero; as in PEFT
// the ratio is u's under every init, also where neither is zero or v's counterpart is. Their code
// applies the ratio to vectors too; here vectors are no factors of lora.
//
// Starts are in lora_init.hpp and lora_init_weight.hpp, lora_ga.hpp; what happens to the gradients
// in lora_precondition.hpp, lora_pro.hpp.
#pragma once

#include <cmath>

#include "gradview/projections/lora_ga.hpp"
#include "gradview/projections/lora_init_weight.hpp"
#include "gradview/projections/lora_pro.hpp"
#include "gradview/projections/tangent.hpp"

namespace gradview {

inline std::vector<std::shared_ptr<LoraInit>> lora_inits() {
  return {std::make_shared<ZeroInit>(),      std::make_shared<GaussianInit>(),
          std::make_shared<SymmetricInit>(), std::make_shared<OrthogonalInit>(),
          std::make_shared<PissaInit>(),     std::make_shared<OloraInit>(),
          std::make_shared<LoraGaInit>()};
}

inline std::vector<std::shared_ptr<LoraPreconditioner>> lora_preconditioners() {
  return {std::make_shared<NoPreconditioner>(), std::make_shared<RiemannianPreconditioner>(),
          std::make_shared<LoraPro>()};
}

enum class LoraScaling { standard, rslora };

inline double lora_scale(LoraScaling scaling, double alpha, std::size_t rank) {
  const auto r = static_cast<double>(rank);
  return scaling == LoraScaling::standard ? alpha / r : alpha / std::sqrt(r);
}

// Is u v zero, to rounding?     ‖u v‖² = ⟨uᵀu, v vᵀ⟩
inline bool has_no_product(const Matrix& u, const Matrix& v) {
  const double size = squared_norm(u) * squared_norm(v);
  return dot(matmul_tn(u, u), matmul_nt(v, v)) <= 64 * std::numeric_limits<Real>::epsilon() * size;
}

class Lora final : public Projector {
 public:
  struct Options {
    std::size_t rank = 8;
    std::optional<double> alpha;
    LoraScaling scaling = LoraScaling::standard;
    std::shared_ptr<const LoraInit> init;
    double lr_ratio = 1;
    std::shared_ptr<const LoraPreconditioner> preconditioner;
    void declare(OptionSet& o) {
      o.count("rank", rank, {.least = 1}, "columns of u, rows of v; capped at min(m, n)");
      o.number("alpha", alpha, {.least = 0, .open_below = true}, "= rank",
               "numerator of the scale s");
      o.choice("scaling", scaling,
               {{"standard", LoraScaling::standard}, {"rslora", LoraScaling::rslora}},
               "s = alpha/rank, or alpha/√rank");
      init = o.one_of("init", lora_inits(),
                      "u = 0 with v uniform in ±1/√n, or with v ~ N(0, 1/r²); both live and "
                      "balanced; both live with u v = 0; from the SVD or the QR of W; from the SVD "
                      "of the first gradient");
      o.number("lr_ratio", lr_ratio, {.least = 0, .open_below = true},
               "LoRA+: u learns at this multiple of the learning rate");
      preconditioner = o.one_of("precondition", lora_preconditioners(),
                                "of the factors' gradients: ScaledGD, or the gradients whose "
                                "product is nearest to the gradient of the weight");
    }
    double scale() const {  // of the rank asked for, also where a matrix caps it
      return lora_scale(scaling, alpha.value_or(static_cast<double>(rank)), rank);
    }
  };

  Lora(const Options& o, const Site& site) : o_(o), s_(o.scale()) {
    const LoraPlace here = place(site);
    note_ = o.init->note(here);
    set(o.init->start(here));
  }
  static Count count(const Options& o, Shape shape) {
    const std::size_t numbers = capped_rank(o.rank, shape) * (shape.rows + shape.cols);
    return {.trained = numbers, .stored = o.init->has_product() ? numbers : 0};
  }

  bool starts_from_gradient() const override { return o_.init->from_gradient(); }
  void start(const Gradient& g, const Site& site) override {
    if (o_.init->from_gradient() && g.finite()) {
      set(o_.init->start(g, place(site)));
    } else if (!moved_) {
      set({u_, v_});  // u₀ and v₀ are what the factors have been set to
      knows_start_ = o_.init->has_product() || has_no_product(u_, v_);
    }
  }
  Factors project(const Gradient& g, const Matrix&) const override {
    return pull_back(s_, u_, v_, g);
  }
  void precondition(Factors& g, const Site&) const override {
    if (all_finite(u_) && all_finite(v_)) o_.preconditioner->apply(g, u_, v_, s_);
  }
  void lift(const Factors& d, Matrix& w) const override { push_forward(s_, u_, v_, d[0], d[1], w); }
  void retract(const Step& step, Matrix* w) override {
    const Factors& d = step.direction;
    moved_ = true;
    axpy(v_, 1, d[1]);
    if (w) push_forward(s_, u_, v_, d[0], d[1], *w);  // du (v + dv) + u dv
    axpy(u_, 1, d[0]);
  }
  double entry(const Factors& theta, const Matrix&, std::size_t i, std::size_t j) const override {
    return s_ * product_entry(theta[0], theta[1], i, j);
  }
  std::optional<LowRank> product() const override {
    if (!knows_start_) return std::nullopt;
    if (!o_.init->has_product()) return LowRank{u_, v_, s_};
    Matrix minus = v0_;
    gradview::scale(minus, -1);
    return LowRank{side_by_side(u_, u0_), stacked(v_, minus), s_};  // s [u | u₀][v ; −v₀]
  }
  void fields(const Visit& visit) override {
    visit("u", u_, Role::trained);
    visit("v", v_, Role::trained);
    if (!o_.init->has_product()) return;
    visit("u0", u0_, Role::frozen);
    visit("v0", v0_, Role::frozen);
  }
  double rate(std::size_t factor) const override { return factor == 0 ? o_.lr_ratio : 1; }
  bool linear() const override { return false; }
  std::string note() const override { return note_; }

 private:
  LoraPlace place(const Site& site) const { return {site, capped_rank(o_.rank, site.shape()), s_}; }
  void set(LoraPair pair) {
    u_ = std::move(pair.u);
    v_ = std::move(pair.v);
    if (o_.init->has_product()) u0_ = u_, v0_ = v_;
  }

  Options o_;
  double s_;
  std::string note_;
  bool moved_ = false;       // with W, since u₀ and v₀
  bool knows_start_ = true;  // false: factors set from outside, under a start without a product
  Matrix u_, v_, u0_, v0_;
};

}  // namespace gradview
