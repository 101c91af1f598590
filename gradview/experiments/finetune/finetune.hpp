// finetune: a checkpoint of Hugging Face, adapted to a user's own text by any projector, and the adapter
// handed to PEFT.
#pragma once

namespace gradview {

int finetune_main(int argc, const char* const* argv);

}  // namespace gradview
