// cost: what one training step costs, part by part, and which of the reasons for LoRA's speed
// carries how much.
#pragma once

namespace gradview {

int cost_main(int argc, const char* const* argv);

}  // namespace gradview
