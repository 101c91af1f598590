// The laws of a projector, as one call: what every method, ours or a user's own, is held to.
//
//     EXPECT_EQ(gradview::broken_laws("mine:rank=3,alpha=5"), std::vector<std::string>{});
//     EXPECT_EQ(gradview::surviving_mutants("mine:rank=3,alpha=5"), std::vector<std::string>{});
//
//  adjoint      ⟨project(G), u⟩ = ⟨G, unproject(u)⟩, which is lift(u) wherever project is Jᵀ
//  lazy         a factored gradient gives what the dense one gives
//  zero         retracting zero changes no bit
//  order        retract − lift is zero where ΔW is linear, else of second order
//  inverse      retracting u, then −u, returns W
//  descent      one Optimizer::step of plain SGD lowers a quadratic
//  operation    … and is W − η T(G) to second order, T(G) = lift(rate · g), g: project(G), penalized
//               and preconditioned
//  resume       saved and restored state gives the next steps bit for bit
//  size         trained and stored numbers are what count() says
//  formula      what retract adds to W is entry(θ + u) − entry(θ)
//  product      W − W₀ is the low-rank product that an export would write, at the start and later
//  expectation  mean and variance of JJᵀG over the frames are the declared ones, within five
//               standard errors
//  drift        W − W₀ stays ΔW(θ) − ΔW(θ₀) over 10⁴ steps
//
// Each runs on a tall, a wide and a square matrix. Choose specs with alpha ≠ rank and rank > 1: a
// wrong scale hides behind alpha = rank. A projector exempts itself from a law, with the reason,
// through Projector::exempt.
#pragma once

#include <string>
#include <vector>

#include "gradview/projections/projector.hpp"

namespace gradview {

const std::vector<Law>& all_laws();
std::string to_string(Law law);

struct Verdict {
  Law law;
  bool holds;
  std::string detail;  // where and by how much it is broken, or why it does not apply
};

// Verdicts in the order of all_laws(), the worst over the shapes. Throws std::invalid_argument on a
// bad spec.
std::vector<Verdict> check_laws(const std::string& spec);

std::vector<std::string> broken_laws(const std::string& spec);  // "adjoint: 11 x 7: …"

// Plants faults (a doubled or wrong scale, a wrong sign, swapped factors, no second-order term,
// forgotten state) and names those that no law notices.
std::vector<std::string> surviving_mutants(const std::string& spec);

}  // namespace gradview
