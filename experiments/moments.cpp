// Where Adam's moments live and what becomes of them when the subspace moves. See
// gradview/experiments/moments/moments.hpp.
#include "gradview/experiments/moments/moments.hpp"

int main(int argc, char** argv) { return gradview::moments_main(argc, argv); }
