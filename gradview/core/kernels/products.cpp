// Thin products and updates for one instruction set. CMake compiles this file and elementwise.cpp
// once for each, with GRADVIEW_ISA the namespace, so that no two compilations share a symbol. A
// multiply and an add are fused here wherever the CPU can, always: the bits are those of the set.
#include "gradview/core/kernels/thin.hpp"
#include "gradview/core/kernels/update.hpp"

namespace gradview::GRADVIEW_ISA {

void set_products(Kernels& k) {
  set_sum_order();
  k.thin_size = thin_size;
  k.thin_pack = thin_pack;
  k.thin_add = thin_add;
  k.thin = thin;
  k.update_size = update_size;
  k.update_pack = update_pack;
  k.update = update;
}

}  // namespace gradview::GRADVIEW_ISA
