// double: does AdaLoRA find the matrices that need its budget? See
// gradview/experiments/allocation.hpp.
#include "gradview/experiments/allocation.hpp"

int main(int argc, char** argv) { return gradview::allocation_main(argc, argv); }
