// Transport: what a factor's moments become when its subspace moves; one function over the change.
//
//     keep      nothing: old coordinates are read in the new basis (GaLore, APOLLO)
//     project   m ← C m, second moment kept (Flora)
//     rotate    m ← C m,  v ← |(C∘C)(v − m²) + (C m)²|,  C scaled to a contraction (LDAdam)
//     reset     everything to zero (ReLoRA)
//
// C m stands for left · m · right of the change. In rotate m and v are the averages after their bias
// correction, so that v − m² is a variance from the first step on. Hao et al.: Flora, 2024,
// arXiv:2402.03293; Robert et al.: LDAdam, 2024, arXiv:2410.16103. Adafactor's row and column
// averages of the square have no mean to subtract: rotate maps them with C∘C on the side that moved.
#pragma once

#include "gradview/projections/moments.hpp"

namespace gradview {

// Not automatic, which a projector resolves. The second moment never becomes negative.
void transport_moments(Transport how, const Change& change, Moments& moments);

}  // namespace gradview
