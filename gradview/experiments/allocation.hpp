// allocation: does AdaLoRA give the budget to the matrices that need it?
//
// Six linear layers side by side (tasks/parallel.hpp), two of which have to change by a matrix of
// rank 4, and one budget of triplets for all of them. AdaLoRA, with its penalty and without, against
// LoRA with the same rank everywhere: the largest rank that the budget allows, and the next one,
// which is above it. All are tuned and paired by seed. Claims, each with an interval:
//
//     finds      the needy matrices hold at least 90 % of the final budget
//     beats      more of the planted change is explained (R²) than by either LoRA
//     revives    triplets that were masked are kept again later
//     penalty    R² with the penalty minus R² without
#pragma once

namespace gradview {

int allocation_main(int argc, const char* const* argv);

}  // namespace gradview
