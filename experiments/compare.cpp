// compare: low-rank methods against full-rank training, tuned and paired. See
// gradview/experiments/compare/compare.hpp.
#include "gradview/experiments/compare/compare.hpp"

int main(int argc, char** argv) { return gradview::compare_main(argc, argv); }
