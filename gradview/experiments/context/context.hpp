// context: LongLoRA in miniature. A byte model with rotary positions is pre-trained at one length and
// extended to several times that with linear position interpolation: by full fine-tuning, by LoRA, and
// by LoRA with embeddings and norms trained beside it, each with full attention and with shifted sparse
// attention in training. Evaluation has full attention.
//
// Chen, Qian, Tang, Lai, Liu, Han, Jia: LongLoRA (2023, arXiv:2309.12307).
#pragma once

namespace gradview {

int context_main(int argc, const char* const* argv);

}  // namespace gradview
