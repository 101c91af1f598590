// double: how an adapter's output and input gradient grow with m, n and r. See
// gradview/experiments/stability/stability.hpp.
#include "gradview/experiments/stability/stability.hpp"

int main(int argc, char** argv) { return gradview::stability_main(argc, argv); }
