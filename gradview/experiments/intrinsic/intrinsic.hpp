// intrinsic: the smallest number of trained directions that does nearly what full-rank training
// does.
//
// Li, Farkhoor, Liu, Yosinski: Measuring the Intrinsic Dimension of Objective Landscapes, 2018,
// arXiv:1804.08838: d90 is the dimension of a random frozen subspace in which training first
// reaches 90 % of the full solution's performance. Aghajanyan, Zettlemoyer, Gupta: Intrinsic
// Dimensionality Explains the Effectiveness of Language Model Fine-Tuning, 2020, arXiv:2012.13255:
// the same for fine-tuning. Here the subspace has a frame per matrix instead of one for all weights.
// Two measures of performance: the accuracy, as both papers have it, and the gain over the start,
// since a pre-trained start is above chance.
#pragma once

namespace gradview {

int intrinsic_main(int argc, const char* const* argv);

}  // namespace gradview
