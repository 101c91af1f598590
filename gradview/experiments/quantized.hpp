// quantized: what 4 bits cost a network, and how much of that an adapter beside them gives back.
//
//     gap = L(W in 4 bits) − L(W)                             nothing trained
//     left = L(W in 4 bits, adapted) − L(W, adapted)          share = 1 − left/gap
//
// per seed, on the test split of the new task; the share's interval is Fieller's, and there is none
// where the gap's own holds 0. `rounded`: W adapted in float and put into 4 bits afterwards.
#pragma once

namespace gradview {

int quantized_main(int argc, const char* const* argv);

}  // namespace gradview
