// double: what methods can express of a change. See gradview/experiments/expressivity.
#include "gradview/experiments/expressivity/expressivity.hpp"

int main(int argc, char** argv) { return gradview::expressivity_main(argc, argv); }
