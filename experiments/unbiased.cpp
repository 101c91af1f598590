// double: random frames against their closed forms. See gradview/experiments/unbiased.hpp.
#include "gradview/experiments/unbiased.hpp"

int main(int argc, char** argv) { return gradview::unbiased_main(argc, argv); }
