// stability: how the output and the input gradient of a LoRA adapter grow with m, n and r, against
// the Θ of theory; which scaling is stable under which optimizer.
#pragma once

namespace gradview {

int stability_main(int argc, const char* const* argv);

}  // namespace gradview
