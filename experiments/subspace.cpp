// subspace: which directions methods move along. See gradview/experiments/subspace/subspace.hpp.
#include "gradview/experiments/subspace/subspace.hpp"

int main(int argc, char** argv) { return gradview::subspace_main(argc, argv); }
