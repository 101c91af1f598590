// Update rules, folds and random numbers for one instruction set; see products.cpp. Nothing is fused here.
#include "gradview/core/kernels/adam.hpp"
#include "gradview/core/kernels/fold.hpp"
#include "gradview/core/kernels/normal.hpp"

namespace gradview::GRADVIEW_ISA {
namespace {

Philox state(const RandomBlocks& b) {
  return {{b.counter[0], b.counter[1], b.counter[2], b.counter[3]}, {b.key[0], b.key[1]}};
}

}  // namespace

void set_elementwise(Kernels& k) {
  k.fold = fold;
  k.unfold = unfold;
  k.adam = adam;
  k.adam_move = adam_move;
  k.momentum = momentum;
  k.momentum_move = momentum_move;
  k.normals = [](const RandomBlocks& b, double deviation, Real* out) {
    fill_normals(out, b.count, state(b), deviation);
  };
  k.uniforms = [](const RandomBlocks& b, double low, double width, Real* out) {
    fill_uniforms(out, b.count, state(b), low, width);
  };
  k.signs = [](const RandomBlocks& b, Real* out) { fill_signs(out, b.count, state(b)); };
}

}  // namespace gradview::GRADVIEW_ISA
