// double: laws: every method against every law. See gradview/experiments/laws_table.hpp.
#include "gradview/experiments/laws_table.hpp"

int main(int argc, char** argv) { return gradview::laws_main(argc, argv); }
