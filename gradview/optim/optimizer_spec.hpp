// What --optimizer says: an update rule, where its moments live, and what decays.
//
//     sgd:momentum=0.9,nesterov=true,weight_decay=1e-4        adam:beta1=,beta2=,eps=
//     adamw:…,weight_decay=0.01,decay_on=factors|initial|weight
//     adafactor:beta1=,beta2_decay=-0.8,eps1=,eps2=,clip_threshold=1,scale_parameter=true,…
//
// each with moments=auto|factors|weight|lifted|none and transport=auto|keep|project|rotate|reset.
#pragma once

#include <string>
#include <vector>

#include "gradview/core/spec.hpp"
#include "gradview/optim/rules.hpp"
#include "gradview/optim/transport.hpp"

namespace gradview {

// automatic: where the projector says; on the weight for frames that are redrawn every step, else
// on the factors. On such frames every older average has mean zero in the new coordinates: momentum
// is destroyed, and Adam's second moment becomes a row-wise one; on the weight, rule(G) is projected
// instead. lifted: on the weight too, but of what the factors see of G: rule(J P JᵀG), P the
// projector's preconditioner. none: β₁ = 0 and no momentum.
enum class MomentsOn { automatic, factors, weight, lifted, none };

// What decoupled decay pulls: the factors towards zero or towards their start, or the weight
// towards zero.
enum class DecayOn { factors, initial, weight };

struct OptimizerSpec {
  UpdateRule rule;
  double coupled_decay = 0;  // λ: the gradient of a factor gets λ θ added before the rule (sgd)
  double decoupled_decay = 0;  // λ: a factor moves by −lr λ θ beside the rule (adamw)
  DecayOn decay_on = DecayOn::factors;
  bool decay_on_given = false;
  MomentsOn moments = MomentsOn::automatic;
  Transport transport = Transport::automatic;
};

OptimizerSpec make_optimizer_spec(const Spec& spec);  // throws std::invalid_argument

struct RuleHelp {
  std::string name, summary;
  std::vector<OptionHelp> options;
};
std::vector<RuleHelp> describe_optimizers();

}  // namespace gradview
