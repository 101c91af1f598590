// What one step did, seen against the full gradient: taken at logged steps only, since it forms m x
// n arrays.
#pragma once

#include <cmath>
#include <limits>

namespace gradview {

// Sums over matrices; the figures are those of all of them as one long vector. NaN where there is
// nothing to divide by.
struct Observation {
  double gradient = 0;   // ‖G‖²
  double tangent = 0;    // ‖JJᵀG‖²
  double inner = 0;      // ‖JᵀG‖² = ⟨JJᵀG, G⟩
  double update = 0;     // ‖W_{t+1} − W_t‖²
  double lifted = 0;     // ‖J u‖² of the change u that the factors made
  double remainder = 0;  // ‖(retract − lift) u‖²

  double grad_norm() const { return std::sqrt(gradient); }
  double update_norm() const { return std::sqrt(update); }
  double gain() const { return ratio(inner, gradient); }
  double cosine() const { return ratio(inner, std::sqrt(tangent) * std::sqrt(gradient)); }
  double second_order() const { return std::sqrt(ratio(remainder, lifted)); }

  Observation& operator+=(const Observation& more) {
    gradient += more.gradient;
    tangent += more.tangent;
    inner += more.inner;
    update += more.update;
    lifted += more.lifted;
    remainder += more.remainder;
    return *this;
  }

 private:
  static double ratio(double a, double b) {
    return b != 0 ? a / b : std::numeric_limits<double>::quiet_NaN();
  }
};

}  // namespace gradview
