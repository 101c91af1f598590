// Update rules and folds for one instruction set; see products.cpp. Nothing is fused here.
#include "gradview/core/kernels/adam.hpp"
#include "gradview/core/kernels/fold.hpp"

namespace gradview::GRADVIEW_ISA {

void set_elementwise(Kernels& k) {
  k.fold = fold;
  k.unfold = unfold;
  k.adam = adam;
  k.adam_move = adam_move;
  k.momentum = momentum;
  k.momentum_move = momentum_move;
}

}  // namespace gradview::GRADVIEW_ISA
