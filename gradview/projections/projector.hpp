// Projector: one low-rank method, as what it does to the full gradient of one m x n weight.
//
//     project    g = Jᵀ G                            full gradient → gradients of the factors θ
//     lift       W += J u                            a change of the factors, to first order, as a
//     change of W retract    θ += u,  W += ΔW(θ+u) − ΔW(θ)       the same change, exactly
//
// ΔW(θ) is the method's parametrisation, J its Jacobian. A method defines project, lift and entry,
// names its state in fields, and retract too where ΔW is not linear in θ. Shapes and scales are
// those of the method's own header.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/core/spec.hpp"

namespace gradview {

using Factors = std::vector<Matrix>;  // one matrix per factor, in the order of fields()

// What a method may look at.
struct Site {
  std::string name;      // of the parameter; it keys the random numbers
  const Matrix& weight;  // m x n, as it is now
  std::uint64_t seed = 0;
  std::size_t step = 0;
  bool before_softmax =
      false;  // the columns of G sum to zero: the outputs go into a softmax cross-entropy

  Shape shape() const { return shape_of(weight); }
  Stream rng(Purpose purpose, std::size_t at_step = 0) const {
    return {seed, purpose, name, at_step};
  }
};

struct Step {
  const Gradient& gradient;  // G of this step
  const Factors& projected;  // Jᵀ G
  const Factors& direction;  // u, the change of the factors: −lr · rule(Jᵀ G)
  double lr;
};

// How the coordinates of one factor changed when the subspace moved: old frame times new frame,
// b_old b_newᵀ (r x r) for a factor whose rows are coordinates, a_new a_oldᵀ for one whose columns
// are. The frames F are scaled so that E[FᵀF] = I; times `contraction`, the product is that of
// (nearly) orthonormal ones.
struct Change {
  enum class Side { right, left } side;  // new = old · basis | basis · old
  Matrix basis;
  double contraction = 1;
};
using Changes =
    std::vector<std::optional<Change>>;  // per factor, in order; empty where nothing moved

enum class Role {
  trained,
  frozen
};  // trained: a factor, stepped and decayed; frozen: state that is not
using Visit = std::function<void(std::string_view name, Matrix& value, Role role)>;

// E[JJᵀG] = mean · G and E‖JJᵀG − mean · G‖² = variance · ‖G‖² over the method's random frames.
struct Expectation {
  double mean, variance;
};

struct Count {              // of numbers, for one matrix
  std::size_t trained = 0;  // entries of the factors
  std::size_t stored = 0;   // entries of state between steps that are neither factors nor moments
};

// The laws that hold every projector to its promises (gradview/laws.hpp).
enum class Law {
  adjoint,
  lazy,
  zero,
  order,
  inverse,
  descent,
  resume,
  size,
  formula,
  expectation,
  drift
};

class Projector {
 public:
  virtual ~Projector() = default;

  // Chooses the subspace of this step. Called once per step, before the first project.
  virtual Changes refresh(const Gradient&, const Site&) { return {}; }
  virtual Factors project(const Gradient& g, const Matrix& w) const = 0;
  virtual void lift(const Factors& u, Matrix& w) const = 0;
  // w is null where the method's product stays beside the weight instead of inside it.
  virtual void retract(const Step& step, Matrix* w) {
    if (w) lift(step.direction, *w);
    move_factors(step.direction);
  }
  // ΔW_ij(θ) as the paper writes it, entry by entry: what the laws compare the fast code with. For
  // a method without persistent factors, (J θ)_ij.
  virtual double entry(const Factors& theta, std::size_t i, std::size_t j) const = 0;

  virtual void fields(const Visit&) {}  // all state that outlives a step, by name
  virtual double rate(std::size_t) const {
    return 1;
  }                                             // multiplies the learning rate of one factor
  virtual bool linear() const { return true; }  // is ΔW linear in θ?
  // Steps between two choices of the subspace; 0: chosen once. Decides where moments may live.
  virtual std::size_t refresh_every() const { return 0; }
  virtual std::optional<Expectation> expectation() const { return std::nullopt; }
  virtual std::string exempt(Law) const { return {}; }  // why a law does not apply; empty: it does
  virtual std::string note() const { return {}; }       // for the table of parameters

  Factors factors() {  // copies of the trained fields
    Factors theta;
    fields([&](std::string_view, Matrix& value, Role role) {
      if (role == Role::trained) theta.push_back(value);
    });
    return theta;
  }

 protected:
  void move_factors(const Factors& u) {
    std::size_t k = 0;
    fields([&](std::string_view, Matrix& value, Role role) {
      if (role == Role::trained) axpy(value, 1, u.at(k++));
    });
  }
};

// A rank that a matrix can hold: at most min(m, n).
inline std::size_t capped_rank(std::size_t rank, Shape shape) {
  return std::min({rank, shape.rows, shape.cols});
}

}  // namespace gradview
