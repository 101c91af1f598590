// parameters: what each method trains, keeps and moves on the matrices of a named model, counted
// exactly.
#pragma once

namespace gradview {

int parameters_main(int argc, const char* const* argv);

}  // namespace gradview
