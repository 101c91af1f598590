// The kernels: loops over plain arrays, compiled once for every instruction set that the library
// was built for and chosen by the CPU that it runs on. Each works on one block, on one thread;
// who calls them splits the work (core/thin.cpp, core/elementwise.cpp).
//
// Every set of kernels gives the same bits for the same call; different sets differ in rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gradview/core/real.hpp"

namespace gradview {

// A thin matrix as an array in memory: entry (i, j) at data[i row + j column].
struct Strided {
  const Real* data;
  std::size_t row, column;
};

// P = A Vᵀ and H += Qᵀ A for a block of rows of A, or one of the two: thin.hpp.
struct ThinBlock {
  const Real* a;  // rows x n, rows lda apart
  std::size_t lda, rows, n, r;
  const Real* v = nullptr;  // r x n, packed; null: no right product
  Real* p = nullptr;        // rows x r
  const Real* q = nullptr;  // rows x r; null: no left product
  Real* h = nullptr;        // r x n, packed
};

// W += L R for a block of rows of W: update.hpp.
struct UpdateBlock {
  Real* w;  // rows x n
  std::size_t rows, n, k;
  const Real* left;   // rows x k
  const Real* right;  // k x n, packed
};

// Row sums and column sums of a block, both from one read: fold.hpp.
struct FoldBlock {
  const Real* a;  // rows x n; row 0 is row `first` of the whole
  std::size_t first, rows, n, r;
  Real* columns = nullptr;   // rows x r: A J_nᵀ; null: not wanted
  Real* rows_sum = nullptr;  // r x n, added to: J_m A; null: not wanted
};

// w(i, j) += u(i, j mod r) + v(i mod r, j) for a block of rows: fold.hpp.
struct UnfoldBlock {
  Real* w;  // rows x n; row 0 is row `first` of the whole
  std::size_t first, rows, n, r;
  const Real* u;  // rows x r
  const Real* v;  // r x n
};

// One step of Adam on `count` numbers: adam.hpp. All constants are those of this step.
struct AdamStep {
  Real beta1, beta2, rest1, rest2;  // rest: 1 − β
  Real first_scale, root_scale;     // of the bias corrections: m · first_scale, √v · root_scale
  Real eps;
};
// w ← keep w − lr · direction(g + pull w)
struct Move {
  Real lr, keep = 1, pull = 0;
};

// Where a random stream stands: normal.hpp.
struct RandomBlocks {
  std::uint32_t counter[4], key[2];
  std::size_t count;  // blocks to draw, two numbers of each
};

struct Kernels {
  const char* isa;  // "x86_64_v4"
  // Numbers that a packed r x n matrix takes; packing it, adding it to `to` (r x n by strides).
  std::size_t (*thin_size)(std::size_t r, std::size_t n) = nullptr;
  void (*thin_pack)(Strided from, std::size_t r, std::size_t n, Real* to) = nullptr;
  void (*thin_add)(const Real* packed, std::size_t r, std::size_t n, Real s, Real* to,
                   std::size_t row, std::size_t column) = nullptr;
  void (*thin)(const ThinBlock&) = nullptr;
  std::size_t (*update_size)(std::size_t k, std::size_t n) = nullptr;
  void (*update_pack)(Strided from, std::size_t k, std::size_t n, std::size_t first,
                      std::size_t total, Real* to) = nullptr;  // rows first … of a packed total x n
  void (*update)(const UpdateBlock&) = nullptr;
  void (*fold)(const FoldBlock&) = nullptr;
  void (*unfold)(const UnfoldBlock&) = nullptr;
  // g becomes the direction. m: null where β₁ = 0.
  void (*adam)(const AdamStep&, std::size_t count, Real* g, Real* m, Real* v) = nullptr;
  void (*adam_move)(const AdamStep&, const Move&, std::size_t count, Real* w, const Real* g,
                    Real* m, Real* v) = nullptr;
  // b ← μ b + g (first: b ← g), g becomes b, or g + μ b (Nesterov).
  void (*momentum)(Real mu, bool first, bool nesterov, std::size_t count, Real* g,
                   Real* b) = nullptr;
  void (*momentum_move)(Real mu, bool first, bool nesterov, const Move&, std::size_t count, Real* w,
                        const Real* g, Real* b) = nullptr;  // b: null where μ = 0
  // Numbers drawn two by two: N(0, deviation²), uniform in low + (0, width), and signs.
  void (*normals)(const RandomBlocks&, double deviation, Real* out) = nullptr;
  void (*uniforms)(const RandomBlocks&, double low, double width, Real* out) = nullptr;
  void (*signs)(const RandomBlocks&, Real* out) = nullptr;
};

// Those in use: the fastest that this CPU runs, or the one that the environment variable
// GRADVIEW_ISA names. Throws std::invalid_argument where it names none that runs here.
const Kernels& kernels();
std::span<const Kernels> kernels_of_this_cpu();  // fastest first

const Kernels& plain_kernels();  // loops as one would write them down: what tests compare with

}  // namespace gradview
