// parameters: trainable numbers and bytes per method on named models. See
// gradview/experiments/parameters/parameters.hpp.
#include "gradview/experiments/parameters/parameters.hpp"

int main(int argc, char** argv) { return gradview::parameters_main(argc, argv); }
