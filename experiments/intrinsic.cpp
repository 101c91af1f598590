// How many trained directions suffice. See gradview/experiments/intrinsic.
#include "gradview/experiments/intrinsic/intrinsic.hpp"

int main(int argc, char** argv) { return gradview::intrinsic_main(argc, argv); }
