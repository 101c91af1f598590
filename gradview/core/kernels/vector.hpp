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
// quarter of the instructions that one vector after the other does.
template <std::size_t Count>
GRADVIEW_INLINE void sums_of(const Vector* vectors, Real* sums) {
  constexpr std::size_t kWhole = Count / kWidth * kWidth;
  for (std::size_t k = 0; k < kWhole; k += kWidth) {
    xsimd::haddp(vectors + k).store_unaligned(sums + k);
  }
  if constexpr (kWhole < Count) {
    Vector rest[kWidth];
    for (std::size_t k = 0; k < kWidth; ++k) {
      rest[k] = kWhole + k < Count ? vectors[kWhole + k] : Vector(Real{0});
    }
    Real last[kWidth];
    xsimd::haddp(rest).store_unaligned(last);
    for (std::size_t k = 0; kWhole + k < Count; ++k) sums[kWhole + k] = last[k];
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
