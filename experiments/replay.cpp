// replay: recorded gradients through any projector and optimizer. See
// gradview/experiments/replay/replay.hpp.
#include "gradview/experiments/replay/replay.hpp"

int main(int argc, char** argv) { return gradview::replay_main(argc, argv); }
