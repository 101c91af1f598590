// galore: the gradient projected onto its own leading singular vectors, chosen anew every κ steps.
//
//     Jᵀ G = G vᵀ,  W ← W − η α rule(G vᵀ) v          v: the top r right singular vectors of a G
//
// (uᵀ G on the other side, uᵀ G vᵀ on both). Zhao et al.: GaLore: Memory-Efficient LLM Training by
// Gradient Low-Rank Projection, 2024, arXiv:2403.03507. The frames come from the gradient of the
// step at which they are chosen, steps 0, κ, 2κ … α (scale) acts on the way back only: as a
// learning-rate ratio, so that lr and scale are one number and are to be tuned as one. Defaults of
// rank and scale are ours (the authors: α = 0.25 with lr 0.01, κ = 200, rank a quarter of the width).
//
// What the authors' code (galore_torch 1.0) does beyond the paper, and what is done here:
//   refresh   both averages stay as they are, though the basis turned: transport=keep, which auto
//             means here; rotate, project and reset are the alternatives.
//   signs     as LAPACK leaves them, so that kept averages may flip; here they are fixed.
//   sides     std, reverse_std, left, right, full are auto, long, left, right, both. reverse_std
//             guesses its side from the projected shape and fails where the rank reaches min(m, n).
//   Adam      of transformers, whose bias correction acts on the learning rate, so that ε (10⁻⁶) counts
//             before it: adam:bias_correction=rate.
//   decay     decoupled, on all of W, after the step: W ← (1 − ηλ)(W − ηN). Ours, as torch's AdamW,
//             comes before it: W ← (1 − ηλ) W − ηN.
//   dtype     the SVD is taken in float32, whatever the gradient is.
// error_feedback=true adds what was left out to the next gradient (PowerSGD; see one_sided.hpp).
#pragma once

#include "gradview/projections/leading_subspace.hpp"

namespace gradview {

class Galore final : public LeadingSubspace {
 public:
  struct Options : LeadingSubspace::Options {
    double scale = 1;
    bool error_feedback = false;
    void declare(OptionSet& o) {
      declare_subspace(o);
      o.number("scale", scale, {.least = 0, .open_below = true}, "α, on the way back");
      declare_error_feedback(o, error_feedback);
    }
  };
  Galore(const Options& o, const Site& site)
      : LeadingSubspace(o, site, o.error_feedback), scale_(o.scale) {}
  static Count count(const Options& o, Shape shape) {
    return OneSided::count(o.side, o.rank, shape, o.error_feedback);
  }
  double rate(std::size_t) const override { return scale_; }

 private:
  double scale_;
};

}  // namespace gradview
