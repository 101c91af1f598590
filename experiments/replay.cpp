// replay: recorded gradients through any projector and optimizer. See
// gradview/experiments/replay.hpp.
#include "gradview/experiments/replay.hpp"

int main(int argc, char** argv) { return gradview::replay_main(argc, argv); }
