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

GRADVIEW_INLINE Real sum_of(const Vector& x) {  // by halves
  alignas(64) Real lanes[kWidth];
  x.store_aligned(lanes);
  for (std::size_t half = kWidth / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
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
