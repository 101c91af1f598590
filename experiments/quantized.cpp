// What 4 bits cost a network, and how much an adapter gives back. See gradview/experiments/quantized.hpp.
#include "gradview/experiments/quantized.hpp"

int main(int argc, char** argv) { return gradview::quantized_main(argc, argv); }
