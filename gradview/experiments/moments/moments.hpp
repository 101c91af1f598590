// moments: where Adam's averages live and what becomes of them when the subspace moves, over how
// often it moves; on an ill-conditioned quadratic and on Fashion-MNIST.
//
// Before the training, the theory of averages in moving coordinates is measured on the optimizer
// itself (moments_theory.hpp).
#pragma once

namespace gradview {

int moments_main(int argc, const char* const* argv);

}  // namespace gradview
