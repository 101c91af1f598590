// The SIMD type that the kernels are written with: as wide as the instruction set that the file is
// compiled for. Everything that depends on that set lies in a namespace of its own, GRADVIEW_ISA.
#pragma once

#include <cstddef>
#include <utility>
#include <xsimd/xsimd.hpp>

#include "gradview/core/real.hpp"

#define GRADVIEW_INLINE [[gnu::always_inline]] inline

namespace gradview::GRADVIEW_ISA {

using Vector = xsimd::batch<Real>;
constexpr std::size_t kWidth = Vector::size;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kRegisters = 32;
#else
constexpr std::size_t kRegisters = 16;
#endif

GRADVIEW_INLINE Vector load(const Real* from) { return Vector::load_unaligned(from); }

// The sums of `Count` vectors, kWidth of them at a time: adding by pairs while transposing takes a
// quarter of the instructions that one vector after the other does. Which of them haddp puts where
// is asked of itself: xsimd 8.1 mixes up 16 floats. set_sum_order() before the first use.
inline std::size_t sum_order[kWidth];

inline void set_sum_order() {
  Vector vectors[kWidth];
  for (std::size_t k = 0; k < kWidth; ++k) vectors[k] = Vector(static_cast<Real>(k));
  Real sums[kWidth];
  xsimd::haddp(vectors).store_unaligned(sums);
  for (std::size_t l = 0; l < kWidth; ++l) {
    sum_order[l] = static_cast<std::size_t>(sums[l]) / kWidth;
  }
}

template <std::size_t Count>
GRADVIEW_INLINE void sums_of(const Vector* vectors, Real* sums) {
  for (std::size_t first = 0; first < Count; first += kWidth) {
    Vector some[kWidth];
    for (std::size_t k = 0; k < kWidth; ++k) {
      some[k] = first + k < Count ? vectors[first + k] : Vector(Real{0});
    }
    Real lanes[kWidth];
    xsimd::haddp(some).store_unaligned(lanes);
    for (std::size_t l = 0; l < kWidth; ++l) {
      if (first + sum_order[l] < Count) sums[first + sum_order[l]] = lanes[l];
    }
  }
}

// f(0), f(1), … f(N − 1), each index a constant: tiles must stay in registers.
template <std::size_t N, class F>
GRADVIEW_INLINE void unroll(const F& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<std::size_t, I>{}), ...);
  }
  (std::make_index_sequence<N>{});
}

}  // namespace gradview::GRADVIEW_ISA
