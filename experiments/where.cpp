// Which matrices to adapt, and at which rank. See gradview/experiments/where.
#include "gradview/experiments/where/where.hpp"

int main(int argc, char** argv) { return gradview::where_main(argc, argv); }
