// replay: gradients recorded in any framework, through any projector and optimizer. The recording
// does not depend on W, so every projector sees the same one: a microscope over one real fine-tune.
#pragma once

namespace gradview {

int replay_main(int argc, const char* const* argv);

}  // namespace gradview
