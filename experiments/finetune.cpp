// finetune: a checkpoint adapted to a text. See gradview/experiments/finetune/finetune.hpp.
#include "gradview/experiments/finetune/finetune.hpp"

int main(int argc, char** argv) { return gradview::finetune_main(argc, argv); }
