// subspace: which directions a method moves along, how they turn, and what more rank adds to them.
//
// Every seed trains from the same weights; it differs in the order of the data and in the frames.
// Along a run, per matrix: gain and cosine of JJᵀG against G, stable rank and 90 %-energy rank of
// ΔW = W − W₀, the angles between ΔW's leading right singular vectors at successive logged steps,
// intruder dimensions. At the end: φ between the leading subspaces of two runs, of one method or of
// two, always of different seeds (Hu et al. 2021, arXiv:2106.09685, sections 7.2 and H), and the
// share of full fine-tuning's ΔW that each one covers.
#pragma once

namespace gradview {

int subspace_main(int argc, const char* const* argv);

}  // namespace gradview
