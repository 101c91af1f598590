// Transport: what happens to a factor's moments when its subspace moves; one function over the
// change of basis.
//
//     keep      nothing: old coordinates are read in the new basis (GaLore, APOLLO)
//     project   m ← m C, second moment kept (Flora); C = b_old b_newᵀ
//     rotate    m ← m C, v ← |(C∘C)-image of (v − m²) + (m C)²| with C scaled to a contraction
//     (LDAdam) reset     everything to zero (ReLoRA)
//
// Hao et al.: Flora, 2024, arXiv:2402.03293; Robert et al.: LDAdam, 2024, arXiv:2410.16103.
#pragma once

#include "gradview/optim/rules.hpp"
#include "gradview/projections/projector.hpp"

namespace gradview {

enum class Transport { automatic, keep, project, rotate, reset };

// automatic is reset. The second moment never becomes negative.
void transport_moments(Transport how, const Change& change, Moments& moments);

}  // namespace gradview
