// BERT, GPT-2 and Llama as transformers of ours: what is theirs alone, and the names of their modules
// in checkpoints. Sizes, rates and ε are for the caller to fill in.
#pragma once

#include "gradview/models/transformer.hpp"

namespace gradview {

Transformer bert();  // norm after the residual, exact GELU, tables of positions and types
Transformer gpt2();  // norm before it, tanh GELU, one projection for q, k and v, weights transposed
Transformer llama();  // RMS norm before it, rotary positions, gated SiLU, no biases

// Rotary positions are then divided by `factor`, and there are as many more of them as before.
// Throws std::invalid_argument where they are not rotary.
void stretch(Transformer& t, double factor);

}  // namespace gradview
