// What a training step costs, and why. See gradview/experiments/cost.
#include "gradview/experiments/cost/cost.hpp"

int main(int argc, char** argv) { return gradview::cost_main(argc, argv); }
