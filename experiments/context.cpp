// A longer context, as LongLoRA makes it. See gradview/experiments/context.
#include "gradview/experiments/context/context.hpp"

int main(int argc, char** argv) { return gradview::context_main(argc, argv); }
