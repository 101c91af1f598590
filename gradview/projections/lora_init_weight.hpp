// Starts of lora that are cut out of the weight.
//
//     pissa    W = U S Vᵀ:  s u₀ v₀ = U_r S_r V_rᵀ,  u₀ = U_r √(S_r/s),  v₀ = √(S_r/s) V_rᵀ
//     olora    W = Q R:     u₀ = Q_r,  v₀ = R_r       (first r columns, first r rows)
//
// Meng, Wang, Zhang: PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large
// Language Models, 2024, arXiv:2404.02948. Büyükakyüz: OLoRA: Orthonormal Low-Rank Adaptation of
// Large Language Models, 2024, arXiv:2406.01775. Both keep W − s u₀ v₀ frozen beside the factors;
// here W itself moves, so that it starts where it was, to the bit. pissa_niter is PEFT's
// pissa_niter_[k]: a randomised SVD of exactly r triples. As in PEFT, olora does not divide by s:
// s times the QR part is taken out of W.
#pragma once

#include "gradview/core/randomized_svd.hpp"
#include "gradview/projections/lora_init.hpp"

namespace gradview {

class PissaInit final : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "pissa"; }
  void declare(OptionSet& o) override {
    o.count("pissa_niter", niter_, {.most = 1000},
            "power iterations of a randomised SVD; 0: the exact one");
  }
  LoraPair start(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const Site& site = place.site;
    if (niter_ == 0) {
      return from(svd(site.whole("init=pissa without pissa_niter")), place.rank, place.s);
    }
    const Matrix draw = normal({place.rank, std::min(m, n)}, 1, site.rng(Purpose::init));
    return from(site.quantised ? randomized_svd(*site.quantised, place.shape(), draw, niter_)
                               : randomized_svd(site.weight, place.shape(), draw, niter_),
                place.rank, place.s);
  }
  static LoraPair from(const Svd& svd, std::size_t r, double s) {
    LoraPair pair{columns(svd.u, 0, r), rows(svd.vt, 0, r)};
    for (std::size_t k = 0; k < r; ++k) {
      const auto root = static_cast<Real>(std::sqrt(svd.singular[k] / s));
      for (std::size_t i = 0; i < pair.u.shape()[0]; ++i) pair.u(i, k) *= root;
      for (std::size_t j = 0; j < pair.v.shape()[1]; ++j) pair.v(k, j) *= root;
    }
    return pair;
  }

 private:
  std::size_t niter_ = 0;
};

class OloraInit final : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "olora"; }
  LoraPair start(const LoraPlace& place) const override {
    const Site& site = place.site;
    return site.quantised ? from(*site.quantised, place.rank) : from(site.weight, place.rank);
  }
  template <class W>
  static LoraPair from(const W& w, std::size_t r) {
    const Matrix q = transpose(orthonormal_rows(transpose(columns(w, 0, r))));
    return {q, matmul_tn(q, w)};  // R_r = Q_rᵀ W
  }
};

}  // namespace gradview
