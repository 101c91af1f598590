// Random numbers by the block: Philox4x32-10 and Box–Muller without branches or calls, so that a
// loop over blocks vectorises and one block by itself gives the same bits on every machine.
//   (w₀, w₁) = Philox(key, counter),  u = (⌊w/2¹²⌋ + ½) 2⁻⁵²,  √(-2 log u₀) · (cos, sin)(2π u₁)
// Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Box, Muller: A
// note on the generation of random normal deviates (Annals of Mathematical Statistics 29, 1958).
// Logarithm, cosine and sine are polynomials, minimax on their interval to 2⁻⁵⁸ of the value.
// This file may be compiled once per instruction set, so nothing inline comes from other headers.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef GRADVIEW_ISA
#define GRADVIEW_ISA plain
#endif

namespace gradview::GRADVIEW_ISA {

struct Philox {
  std::uint32_t counter[4];  // block, step, parameter, purpose
  std::uint32_t key[2];
  // Not constants: with AVX2 the compiler would multiply by long chains of shifts and adds.
  std::uint32_t multiplier[2] = {0xD2511F53, 0xCD9E8D57};
};

struct Words {
  std::uint64_t first, second;
};

struct Pair {
  double first, second;
};

// The block that many after the state's; a | b << 32, c | d << 32 of its four lanes.
inline Words philox(const Philox& state, std::uint32_t block) {
  std::uint64_t ab = std::uint64_t{state.counter[0] + block} << 32 | state.counter[1];
  std::uint64_t cd = std::uint64_t{state.counter[2]} << 32 | state.counter[3];
  std::uint32_t k0 = state.key[0], k1 = state.key[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t x = (ab >> 32) * state.multiplier[0], y = (cd >> 32) * state.multiplier[1];
    ab = y ^ ab << 32 ^ std::uint64_t{k0} << 32;
    cd = x ^ cd << 32 ^ std::uint64_t{k1} << 32;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {ab >> 32 | ab << 32, cd >> 32 | cd << 32};
}

inline double as_double(std::uint64_t bits) { return __builtin_bit_cast(double, bits); }
inline std::uint64_t as_bits(double x) { return __builtin_bit_cast(std::uint64_t, x); }

inline double uniform(std::uint64_t word) {
  return as_double(word >> 12 | as_bits(1)) - (1 - 0x1p-53);  // 1 + ⌊w/2¹²⌋ 2⁻⁵² less 1 - 2⁻⁵³
}

inline double sign(std::uint64_t word) {
  return as_double((~word & as_bits(-0.0)) | as_bits(1));  // -1 where the first bit is 0
}

// log x of normal x: x = 2^k (1 + f), √½ <= 1 + f < √2, s = f / (2 + f), log(1 + f) = 2 artanh s,
// 2s = f - s f.
inline double logarithm(double x) {
  constexpr std::uint64_t kRootHalf = 0x3fe6a09e667f3bcd, kFraction = 0x000fffffffffffff;
  constexpr double kHigh = 0x1.62e42fefa38p-1, kLow = 0x1.ef35793c7673p-45;  // log 2
  const std::uint64_t bits = as_bits(x) + (as_bits(1) - kRootHalf);
  const double k = as_double(bits >> 52 | as_bits(0x1p52)) - (0x1p52 + 1023);
  const double f = as_double((bits & kFraction) + kRootHalf) - 1;
  const double s = f / (2 + f), z = s * s;
  double p = 0.14795949478486972;  // (2 artanh s - 2s) / s³
  p = p * z + 0.1531405062349076;
  p = p * z + 0.18183564320816892;
  p = p * z + 0.22222198573351978;
  p = p * z + 0.2857142874238511;
  p = p * z + 0.3999999999941469;
  p = p * z + 0.6666666666666734;
  return k * kHigh - ((s * (f - p * z) - k * kLow) - f);
}

// (cos, sin)(2πu), 0 <= u <= 1: u is q/4 + t with |t| <= 1/8, exactly; √½ <= cos 2πt = √(1 - sin²).
inline Pair circle(double u) {
  constexpr double kTau = 6.283185307179586, kRest = 3.8981718325193755e-17;  // 2π / kTau - 1
  const double quarters = 4 * u + 0x1.8p52;
  const double x = kTau * (u - 0.25 * (quarters - 0x1.8p52)), z = x * x;
  double p = 1.5896827840383172e-10;  // (sin x - x) / x³
  p = p * z - 2.505075865133446e-08;
  p = p * z + 2.755731369521008e-06;
  p = p * z - 0.00019841269829816885;
  p = p * z + 0.008333333333322425;
  p = p * z - 0.16666666666666632;
  const double s = x + x * (z * p + kRest), c = __builtin_sqrt(1 - s * s);
  const std::uint64_t q = as_bits(quarters), swap = (as_bits(c) ^ as_bits(s)) & -(q & 1);
  return {as_double(as_bits(c) ^ swap ^ (q ^ q >> 1) << 63),
          as_double(as_bits(s) ^ swap ^ q >> 1 << 63)};
}

inline Pair normals(Words words) {
  const double radius = __builtin_sqrt(-2 * logarithm(uniform(words.first)));
  const Pair on_circle = circle(uniform(words.second));
  return {radius * on_circle.first, radius * on_circle.second};
}

// What `draw` makes of the words of `blocks` blocks, two numbers of each.
template <class Value, class Draw>
inline void fill(Value* out, std::size_t blocks, Philox state, Draw draw) {
  constexpr std::size_t kBlocks = 64;
  std::uint64_t first[kBlocks], second[kBlocks];
  while (blocks > 0) {
    const std::size_t count = blocks < kBlocks ? blocks : kBlocks;
    for (std::size_t i = 0; i < count; ++i) {
      const Words words = philox(state, static_cast<std::uint32_t>(i));
      first[i] = words.first;
      second[i] = words.second;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const Pair pair = draw(Words{first[i], second[i]});
      out[2 * i] = static_cast<Value>(pair.first);
      out[2 * i + 1] = static_cast<Value>(pair.second);
    }
    state.counter[0] += static_cast<std::uint32_t>(count);
    out += 2 * count;
    blocks -= count;
  }
}

template <class Value>
inline void fill_normals(Value* out, std::size_t blocks, Philox state, double deviation) {
  fill(out, blocks, state, [=](Words words) {
    const Pair pair = normals(words);
    return Pair{deviation * pair.first, deviation * pair.second};
  });
}

template <class Value>
inline void fill_uniforms(Value* out, std::size_t blocks, Philox state, double low, double width) {
  fill(out, blocks, state, [=](Words words) {
    return Pair{low + width * uniform(words.first), low + width * uniform(words.second)};
  });
}

template <class Value>
inline void fill_signs(Value* out, std::size_t blocks, Philox state) {
  fill(out, blocks, state, [](Words words) { return Pair{sign(words.first), sign(words.second)}; });
}

}  // namespace gradview::GRADVIEW_ISA
