// The best that a method can express of a wanted change D of one weight.
//
//     captured = 1 − min_θ ‖(D − ΔW(θ)) S‖²/‖D S‖²,   S Sᵀ = Σ = E[x xᵀ], the inputs' second moment
//
// so that ‖(D − ΔW) S‖² = E‖D x − ΔW x‖² (S = I: the Frobenius norm). Where ΔW is linear in θ, by
// conjugate gradients; where it is any product u v of rank r, by the singular values of D S
// (Eckart, Young: The approximation of one matrix by another of lower rank, 1936); else by search
// from several starts, which gives a lower bound.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gradview/core/matrix.hpp"
#include "gradview/core/spec.hpp"

namespace gradview {

struct Goal {
  Matrix change;  // D, m x n
  Matrix sigma;   // Σ, n x n; empty: I
  Matrix seen;    // D S
  double energy;  // ‖D S‖²
};
Goal make_goal(Matrix change, Matrix sigma = {});

struct FitSettings {
  std::uint64_t seed = 1;
  std::size_t restarts = 4, iterations = 500;
  double tolerance = 1e-5;  // of the search, over 20 steps
  bool search = false;      // also where a closed form is known
};

struct Fit {
  double captured;    // of the best start
  double least;       // of the worst
  std::string way;    // linear | svd | search
  std::size_t steps;  // of the best search
};

// Throws std::invalid_argument where the method has no fixed set of changes: its frames move, or it
// trains nothing.
Fit fit(const Spec& spec, const Goal& goal, const FitSettings& settings = {});

// The spec with the rank (and the `factor` that cuts the weight into blocks) that uses the most of
// `budget` numbers on such a weight, and how many those are; options that are given stay. Nothing
// where even the least is above the budget.
struct Sized {
  Spec spec;
  std::size_t numbers;
};
std::optional<Sized> sized_for(const Spec& spec, Shape shape, std::size_t budget);

// What the additive form of rank r captures of D, in closed form: with E_d the orthoprojector onto
// the rows of J_d = [I_r I_r …], 1 − ‖(I − E_m) D S (I − E_{J_n S})‖²/‖D S‖².
double additive_captures(const Goal& goal, std::size_t rank);
// The mean of that over D whose singular vectors point anywhere: 1 − (1 − r/m)(1 − r/n).
double additive_captures_of_any(Shape shape, std::size_t rank);

}  // namespace gradview
