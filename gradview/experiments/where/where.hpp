// where: which matrices to adapt when the number of trained parameters is fixed, and which rank.
//
// Tables 5 and 6 of Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021,
// arXiv:2106.09685, in miniature. The budget is what rank 8 has on the first place; every other place
// gets the rank whose numbers are nearest to it. s = alpha/r is held fixed, the learning rate is tuned
// for every row, and rows are compared by paired differences over seeds.
#pragma once

namespace gradview {

int where_main(int argc, const char* const* argv);

}  // namespace gradview
