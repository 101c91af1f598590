// Projector: one low-rank method, as what it does to the full gradient of one m x n weight.
//
//     project    g = Jᵀ G                            full gradient → gradients of the factors θ
//     lift       W += J u                            a change of the factors, to first order, as a
//                                                    change of W
//     retract    θ += u,  W += ΔW(θ+u) − ΔW(θ)       the same change, exactly
//
// ΔW(θ) is the method's parametrisation, J its Jacobian. A method defines project, lift and entry,
// names its state in fields, and retract too where ΔW is not linear in θ. Everything else has a
// default that does nothing. Shapes and scales are those of the method's own header.
//
// A step of the optimizer calls, for every matrix, in this order:
//
//     start          once, before the first step: the factors may be chosen from a gradient
//     refresh        choose the subspace; the moments follow the change that it returns
//     project        per micro-batch
//     penalize       once; then clipping
//     precondition   the factors' gradients, before the update rule
//     retract        with u = −lr · rate · rule(g); then, when all matrices have moved,
//     after_step     once for all matrices of one method
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/quantised.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/core/spec.hpp"
#include "gradview/projections/moments.hpp"

namespace gradview {

using Factors = std::vector<Matrix>;  // one matrix per factor, in the order of fields()

// What a method may look at.
struct Site {
  std::string name;      // of the parameter; it keys the random numbers
  const Matrix& weight;  // m x n, as it is now; empty where it is kept in 4 bits
  std::uint64_t seed = 0;
  std::size_t step = 0;
  std::size_t steps = 0;        // of the whole run; 0 where it is not known
  bool before_softmax = false;  // the outputs go into a softmax: the columns of G sum to zero
  std::span<const Moments> moments = {};  // per factor, where they live on the factors
  std::size_t peers = 1;                  // matrices that this method sits on, this one among them
  bool transports = true;                 // do moments follow the changes that refresh returns?
  const QuantisedMatrix* quantised = nullptr;  // W in 4 bits: what is learned stays beside it

  Shape shape() const { return quantised ? quantised->shape() : shape_of(weight); }
  // For what needs all of W at once: throws std::invalid_argument where it is kept in 4 bits.
  const Matrix& whole(const std::string& what) const {
    if (!quantised) return weight;
    throw std::invalid_argument(what + " needs all of W, and '" + name +
                                "' is kept in 4 bits and never made whole");
  }
  Stream rng(Purpose purpose, std::size_t at_step = 0) const {
    return {seed, purpose, name, at_step};
  }
};

struct Step {
  const Gradient& gradient;  // what was projected: G, or rule(G) where the moments live on the
                             // weight; zero unless needs_gradient()
  const Factors& projected;  // Jᵀ of it, penalized, clipped and preconditioned
  const Factors& direction;  // u, the change of the factors: −lr · rate · rule(projected)
  double lr;                 // times the rule's own factor, where it has one
  std::span<const Matrix> ruled = {};  // rule(projected); empty unless needs_gradient()
};

using Changes =
    std::vector<std::optional<Change>>;  // per factor, in order; empty where nothing moved

// trained: a factor, stepped and decayed; frozen: state that is not
enum class Role { trained, frozen };
using Visit = std::function<void(std::string_view name, Matrix& value, Role role)>;

// E[JJᵀG] = mean · G and E‖JJᵀG − mean · G‖² = variance · ‖G‖² over the method's random frames.
struct Expectation {
  double mean, variance;
};

struct Count {              // of numbers, for one matrix
  std::size_t trained = 0;  // entries of the factors
  std::size_t stored = 0;   // entries of state between steps that are neither factors nor moments
};

struct LowRank {  // s u v
  Matrix u;       // m x k
  Matrix v;       // k x n
  double s;
};

// ΔW = diag(own) W + s u v, where W is what the layer holds: W₀ where ΔW stays beside it, else W₀ + ΔW.
struct WeightUpdate {
  LowRank product;
  Matrix own;  // m x 1; empty for zeros
};

using Figures = std::vector<std::pair<std::string, double>>;

// The laws that hold every projector to its promises (gradview/laws.hpp).
enum class Law {
  adjoint,
  lazy,
  zero,
  order,
  inverse,
  descent,
  operation,
  resume,
  size,
  formula,
  product,
  expectation,
  drift
};

class Projector {
 public:
  struct Peer {  // one adapted matrix, as after_step sees it
    Projector& projector;
    Matrix* weight;  // null where the product stays beside the weight
    Site site;
  };

  virtual ~Projector() = default;

  // Chooses the factors from a gradient at W₀: the average over the pre-pass where the driver made
  // one (only for methods that say starts_from_gradient), else the first gradient of step 0.
  virtual bool starts_from_gradient() const { return false; }
  virtual void start(const Gradient&, const Site&) {}
  // Chooses the subspace of this step. Called once per step, before the first project.
  virtual Changes refresh(const Gradient&, const Site&) { return {}; }
  virtual Factors project(const Gradient& g, const Matrix& w) const = 0;
  // Adds the gradient of what the method itself adds to the loss, a function of its factors.
  virtual void penalize(Factors&, const Site&) const {}
  virtual void precondition(Factors&, const Site&) const {}
  virtual void lift(const Factors& u, Matrix& w) const = 0;
  // What project is the adjoint of: J, unless a method's gradient leaves a term of it out.
  virtual void unproject(const Factors& u, Matrix& w) const { lift(u, w); }
  // w is null where the method's product stays beside the weight instead of inside it.
  virtual void retract(const Step& step, Matrix* w) {
    if (w) lift(step.direction, *w);
    move_factors(step.direction);
  }
  // When every matrix has stepped; called on the first of all projectors of one class, with all of
  // them in the order in which the optimizer got them.
  virtual void after_step(std::span<const Peer>) {}

  // ΔW_ij(θ) as the paper writes it, entry by entry: what the laws compare the fast code with. For
  // a method without persistent factors, (J θ)_ij. `start` is W₀.
  virtual double entry(const Factors& theta, const Matrix& start, std::size_t i,
                       std::size_t j) const = 0;
  // ΔW(θ) − ΔW(θ₀) as a low-rank product, where it is one: what an exported adapter adds to W₀.
  virtual std::optional<LowRank> product() const { return std::nullopt; }

  // The same, and a part of W's rows: what a layer needs to know ΔW apart from W, because W is kept
  // in 4 bits or dropout acts on ΔW's input. None: the method works inside W alone.
  virtual std::optional<WeightUpdate> update() const {
    std::optional<LowRank> made = product();
    if (!made) return std::nullopt;
    return WeightUpdate{std::move(*made), {}};
  }

  virtual void fields(const Visit&) {}                  // all state that outlives a step, by name
  virtual double rate(std::size_t) const { return 1; }  // multiplies the lr of one factor
  virtual bool linear() const { return true; }          // is ΔW linear in θ?
  // Do refresh, retract see G itself, and rule(JᵀG)? Both are then kept until the step.
  virtual bool needs_gradient() const { return false; }

  // Does refresh choose from the gradient of this step? It is then to see all micro-batches at once.
  virtual bool chooses_from_gradient(std::size_t) const { return false; }

  // Is the only factor W itself, so that a rule may move it in place of lift?
  virtual bool is_weight() const { return false; }
  // Is W itself read back as state, so that nothing beside the method may move it (decay_on=weight)?
  virtual bool owns_weight() const { return false; }

  // Steps between two choices of the subspace; 0: chosen once.
  virtual std::size_t refresh_every() const { return 0; }
  // What moments=auto means: with frames that are redrawn every step, averages in their coordinates
  // are destroyed.
  virtual bool moments_on_weight() const { return refresh_every() == 1; }
  virtual Transport transport() const { return Transport::reset; }  // what transport=auto means
  // E‖m C‖²/‖m‖² of one transport=project.
  virtual double transfer_growth() const { return 1; }

  virtual std::optional<Expectation> expectation() const { return std::nullopt; }
  virtual std::string exempt(Law) const { return {}; }  // why a law does not apply; empty: it does
  virtual std::string note() const { return {}; }       // for the table of parameters
  virtual Figures figures() const { return {}; }        // for layers.csv, at logged steps

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
