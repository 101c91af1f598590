// Projectors as PEFT's adapters: what a projector's state is for PEFT, and a projector that goes on
// from an adapter.
//
// A method whose fields are the tensors of one of PEFT's tuners (dora, adalora, loha, lokr, vera) is
// that tuner; any other whose W − W₀ is a known product s u v is LoRA, which covers starts that have a
// product of their own: W − W₀ = s (u v − u₀ v₀) is of rank 2r, on the untouched base, with
// alpha′ = 2 alpha, or √2 alpha under rslora.
#pragma once

#include "gradview/core/spec.hpp"
#include "gradview/io/peft.hpp"

namespace gradview {

// "lora", "dora", …; empty where PEFT has nothing like it.
std::string peft_method(const Spec& spec, Projector& projector);
// Does the spec scale by √rank?
bool peft_rslora(const Spec& spec);

// Of a projector whose peft_method is adapter.method, on the module `path` of that shape.
Adapter::Module peft_module(const Adapter& adapter, const std::string& path, const Spec& spec,
                            Shape shape, Projector& projector);

// Of a start with a product of its own: s u v alone, which belongs on the base W₀ − s u₀ v₀, that is on
// W − s u v. Nothing where the start has none.
std::optional<LowRank> product_on_mutated_base(Projector& projector);

// The spec of a projector that can take the module's factors: `more` (its name the adapter's where
// that is empty) with the module's rank and scale. std::invalid_argument where it has others.
Spec peft_spec(const Adapter& adapter, const Adapter::Module& module, Spec more);

// The projector, fresh on a weight of that shape, gets the module's factors, and w ← w + what they make
// of it; null w: the adapter stays beside it.
// std::invalid_argument where it has no such factors, or others.
void take_up(const Adapter& adapter, const Adapter::Module& module, const Spec& spec,
             Projector& projector, Shape shape, Matrix* w);

}  // namespace gradview
