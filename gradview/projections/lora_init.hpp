// LoraInit: how the factors of lora start.     ΔW = s (u v − u₀ v₀)
//
//     zero         u₀ = 0,   v₀ ~ U(±1/√n)                  s²(r/3n) G is the first step's mean
//     gaussian     u₀ = 0,   v₀ ~ N(0, 1/r²)
//     symmetric    u₀ = c P, v₀ = c Q,  PᵀP = QQᵀ = I,  c² = m/3(m + n)
//     orthogonal   u₀ = Xᵀ E/10, v₀ = Oᵀ Y/10               E, O: even, odd rows of one orthogonal
//                                                           matrix, so u₀ v₀ = 0
//
// zero and gaussian as PEFT has them (Hu et al., 2021, arXiv:2106.09685, write Gaussian; the
// authors' code draws uniformly). symmetric is balanced, u₀ᵀu₀ = v₀v₀ᵀ, and its first step has the
// mean gain of zero. orthogonal is PEFT's: X and Y are normal; its rank is even.
//
// Another start is a class here or in a header of its own, and a row of lora_inits() in lora.hpp. W
// never moves at the start; where u₀ v₀ is not zero, both are kept so that the product is known.
#pragma once

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

#include "gradview/projections/projector.hpp"

namespace gradview {

struct LoraPlace {  // where the factors are to start
  const Site& site;
  std::size_t rank;  // that the matrix can hold
  double s;
  Shape shape() const { return site.shape(); }
};

struct LoraPair {
  Matrix u, v;
};

class LoraInit {
 public:
  virtual ~LoraInit() = default;
  virtual const char* name() const = 0;
  virtual void declare(OptionSet&) {}
  virtual LoraPair start(const LoraPlace& place) const = 0;
  virtual bool has_product() const { return true; }  // is u₀ v₀ other than zero?
  // Does the other start() replace this one when there is a gradient?
  virtual bool from_gradient() const { return false; }
  virtual LoraPair start(const Gradient&, const LoraPlace& place) const { return start(place); }
  virtual std::string note(const LoraPlace&) const { return {}; }
};

class ZeroInit : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "zero"; }
  bool has_product() const override { return false; }
  LoraPair start(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const double bound = 1 / std::sqrt(static_cast<double>(n));
    return {zeros({m, place.rank}),
            uniform({place.rank, n}, -bound, bound, place.site.rng(Purpose::init))};
  }
};

class GaussianInit final : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "gaussian"; }
  bool has_product() const override { return false; }
  LoraPair start(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const double deviation = 1 / static_cast<double>(place.rank);
    return {zeros({m, place.rank}),
            normal({place.rank, n}, deviation, place.site.rng(Purpose::init))};
  }
};

class SymmetricInit final : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "symmetric"; }
  // s²c²(r/n + r/m), the mean gain of the first step, is that of zero, s²r/(3n).
  LoraPair start(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const double c = std::sqrt(static_cast<double>(m) / (3.0 * static_cast<double>(m + n)));
    LoraPair pair{transpose(haar_rows(place.rank, m, place.site.rng(Purpose::init, 0))),
                  haar_rows(place.rank, n, place.site.rng(Purpose::init, 1))};
    scale(pair.u, c);
    scale(pair.v, c);
    return pair;
  }
};

class OrthogonalInit final : public LoraInit {
 public:
  using LoraInit::start;
  const char* name() const override { return "orthogonal"; }
  bool has_product() const override { return false; }
  LoraPair start(const LoraPlace& place) const override {
    const auto [m, n] = place.shape();
    const std::size_t r = place.rank, half = r / 2;
    if (r % 2 != 0) {
      throw std::invalid_argument("lora: init=orthogonal needs an even rank, but " +
                                  to_string(place.shape()) + " is to get " + std::to_string(r));
    }
    const Site& site = place.site;
    return from(haar_rows(r, r, site.rng(Purpose::init, 0)),
                normal({half, m}, 1, site.rng(Purpose::init, 1)),
                normal({half, n}, 1, site.rng(Purpose::init, 2)));
  }
  // q: r x r orthogonal, x: r/2 x m, y: r/2 x n
  static LoraPair from(const Matrix& q, const Matrix& x, const Matrix& y) {
    const std::size_t r = q.shape()[0];
    Matrix odd = uninitialized({r / 2, r}), even = odd;  // the first row is odd
    for (std::size_t i = 0; i < r; ++i) {
      for (std::size_t j = 0; j < r; ++j) (i % 2 == 0 ? odd : even)(i / 2, j) = q(i, j);
    }
    LoraPair pair{matmul_tn(x, even), matmul_tn(odd, y)};
    scale(pair.u, 0.1);
    scale(pair.v, 0.1);
    return pair;
  }
};

}  // namespace gradview
