// Optimizer: the one step function. Every method, full rank included, goes through it.
//
//     prepare   before the first step: a gradient for methods that start from one
//     collect   refresh the subspace, project G, add up; δ and x may go as soon as it returns
//     step      penalize, clip over all factors, precondition, apply the rule and the decay, retract
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gradview/optim/observation.hpp"
#include "gradview/optim/optimizer_spec.hpp"
#include "gradview/optim/schedule.hpp"
#include "gradview/projections/projector.hpp"

namespace gradview {

// Wall-clock seconds of all steps so far, by part.
struct StepSeconds {
  double refresh = 0;  // choosing the subspace, and the moments following it
  double project = 0;  // G → factors; with moments on the weight, forming G too
  double rule = 0;     // the update rule on the factors; where it moves W itself, the update too
  double update = 0;   // factors → W
};

class Optimizer {
 public:
  struct Settings {
    OptimizerSpec spec;
    double lr = 0;
    Schedule schedule = constant_schedule;
    std::size_t steps = 0;  // the length that the schedule is stretched to
    std::uint64_t seed = 0;
    double clip =
        std::numeric_limits<double>::infinity();  // largest norm of all factor gradients together
  };
  explicit Optimizer(Settings settings);

  Site new_site(const std::string& name, const Matrix& weight) const;  // to make a projector with

  Site new_site(const std::string& name, const QuantisedMatrix& weight) const;

  // `weight` must outlive the optimizer. Vectors (biases) are 1 x n under full and are not decayed.
  void add(const std::string& name, Matrix& weight, std::unique_ptr<Projector> projector,
           bool before_softmax = false, bool decayed = true);
  // A weight that nothing moves: ΔW stays beside it (Projector::update). Throws std::invalid_argument
  // where the method has none, or moments or decay are to be on the weight.
  void add(const std::string& name, const QuantisedMatrix& weight,
           std::unique_ptr<Projector> projector, bool before_softmax = false);

  // The pre-pass: adds share · g to the gradient that `name` starts from, where its method wants one
  // at all. Without it, such a method starts from the first gradient that is collected.
  bool wants_prepass() const;
  void prepare(const std::string& name, const Gradient& g, double share = 1);

  // Adds share · g to the gradient of this step. Throws std::invalid_argument on an unknown name or
  // another shape.
  void collect(const std::string& name, const Gradient& g, double share = 1);
  void step();
  void step(std::span<const double> lr);  // one for each matrix, in the order of add()

  // Of what has been collected for this step. not_finite: a matrix whose gradient has infinities or
  // NaN, "" where none has. clip: shrinks the gradients of all factors together to this norm, and
  // returns the one before. drop: forgets it.
  std::string not_finite() const;
  double clip(double most);
  void drop();
  bool keeps_gradient(const std::string& name);  // is G itself needed in the step?

  double lr() const;  // of the step to come, after the schedule
  std::size_t steps_done() const { return step_; }
  std::size_t steps() const { return settings_.steps; }  // of the whole run
  const StepSeconds& seconds() const { return seconds_; }

  void observe() { observing_ = true; }  // the step to come; call before its first collect
  const Observation& observation() const { return observation_; }  // of the last observed step
  const Observation& observation(const std::string& name) const;

  Projector& projector(const std::string& name);
  std::vector<std::string> names() const;

  // All state that outlives a step, by name ("fc1.weight.u", "fc1.weight.u.first" …): for
  // checkpoints.
  void fields(const Visit& visit);
  std::size_t state_bytes()
      const;  // moments, anchors of decay, and projectors' frozen state; not the factors

 private:
  struct Slot {
    std::string name;
    Matrix* weight;                    // null where it is kept in 4 bits
    const QuantisedMatrix* quantised;  // else null
    Shape shape;
    std::unique_ptr<Projector> projector;
    bool before_softmax = false;
    std::size_t peers = 1;              // slots of this class of projectors
    std::size_t trained = 0;            // numbers in the factors
    std::size_t frozen = 0;             // numbers of frozen state
    double coupled = 0, decoupled = 0;  // decay of this matrix
    bool decays_weight = false;         // the decay acts on W
    bool moments_on_weight = false;     // one Moments for the weight …
    bool moments_of_lifted = false;     // … of J P JᵀG
    std::vector<Moments> moments = {};  // per factor, or one for the weight
    Transport transport = Transport::reset;
    Factors anchor = {};                    // θ₀, for decay towards it
    Gradient prepared = Gradient(Shape{});  // before the first step: of the pre-pass
    // of the step under way:
    bool collected = false;
    Factors projected = {};
    Gradient gradient = Gradient(Shape{});
    Observation observation = {};

    const Matrix& w() const;  // empty where it is kept in 4 bits
  };

  void add(Slot slot, bool decayed);
  Slot& find(const std::string& name);
  Site site(const Slot& slot) const;
  void set_decay(Slot& slot, bool decayed) const;
  bool keeps_gradient(const Slot& slot) const {
    return slot.moments_on_weight || observing_ || slot.projector->needs_gradient();
  }
  void set_moments(Slot& slot, const Factors& shapes) const;
  void start(Slot& slot, const Gradient& g) const;
  double clip_factor() const;
  void shrink(Slot& slot, double s) const;
  bool moves_weight_itself(const Slot& slot) const;
  void move_weight_itself(Slot& slot, double lr) const;
  Factors direction(Slot& slot) const;
  double rule_rate(const Slot& slot, std::size_t factor) const;
  void decay(Slot& slot, Factors& direction, double lr) const;
  void advance(Slot& slot, double clip, double lr);
  void observe_gradient(Slot& slot) const;
  void finish_step();

  Settings settings_;
  std::vector<Slot> slots_;
  std::size_t step_ = 0;
  bool observing_ = false;
  Observation observation_;
  StepSeconds seconds_;
};

}  // namespace gradview
