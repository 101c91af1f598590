#include "gradview/optim/optimizer_spec.hpp"

#include <stdexcept>

#include "gradview/core/text.hpp"

namespace gradview {
namespace {

const Range kShare{.least = 0, .most = 1, .open_above = true};
const Range kNonNegative{.least = 0};

struct Common {
  MomentsOn moments = MomentsOn::automatic;
  Transport transport = Transport::automatic;
  void declare_common(OptionSet& o) {
    o.choice(
        "moments", moments,
        {{"auto", MomentsOn::automatic},
         {"factors", MomentsOn::factors},
         {"weight", MomentsOn::weight},
         {"lifted", MomentsOn::lifted},
         {"none", MomentsOn::none}},
        "where the averages live; auto: on the weight for frames redrawn every step (averages "
        "in their coordinates are destroyed), else on the factors; lifted: on the weight, of the "
        "projected gradient; none: no first moment");
    o.choice("transport", transport,
             {{"auto", Transport::automatic},
              {"keep", Transport::keep},
              {"project", Transport::project},
              {"rotate", Transport::rotate},
              {"reset", Transport::reset}},
             "what moments on factors become when the subspace moves; auto: as the method has it, "
             "reset if it says nothing");
  }
  OptimizerSpec common(UpdateRule rule) const {
    OptimizerSpec out;
    out.rule = std::move(rule);
    out.moments = moments;
    out.transport = transport;
    return out;
  }
};

void reject_with_none(const Spec& spec, const char* key, MomentsOn moments) {
  if (moments == MomentsOn::none && spec.find(key)) {
    throw std::invalid_argument("'" + to_string(spec) + "': moments=none and " + key +
                                " contradict each other; give one of them");
  }
}

struct SgdOptions : Common {
  Sgd rule;
  double weight_decay = 0;
  void declare(OptionSet& o) {
    o.number("momentum", rule.momentum, kShare, "μ of the heavy ball");
    o.flag("nesterov", rule.nesterov, "look ahead along the momentum");
    o.number("weight_decay", weight_decay, kNonNegative,
             "λ θ added to the gradient, as torch does");
    declare_common(o);
  }
  OptimizerSpec spec(const Spec& text) const {
    reject_with_none(text, "momentum", moments);
    if (rule.nesterov && rule.momentum == 0) {
      throw std::invalid_argument("'" + to_string(text) +
                                  "': nesterov=true needs momentum above 0");
    }
    OptimizerSpec out = common(update_rule(rule));
    out.coupled_decay = weight_decay;
    return out;
  }
};

struct AdamOptions : Common {
  Adam rule;
  void declare_adam(OptionSet& o) {
    o.number("beta1", rule.beta1, kShare, "decay of the average gradient");
    o.number("beta2", rule.beta2, kShare, "decay of the average square");
    o.number("eps", rule.eps, {.least = 0, .open_below = true}, "added to the root");
    o.choice("bias_correction", rule.bias_correction,
             {{"moments", Adam::BiasCorrection::moments},
              {"rate", Adam::BiasCorrection::rate},
              {"none", Adam::BiasCorrection::none}},
             "of both averages, as torch; of the learning rate, as AdamW of transformers, so that "
             "eps counts before it; or none");
    declare_common(o);
  }
  void declare(OptionSet& o) { declare_adam(o); }
  OptimizerSpec spec(const Spec& text) const {
    reject_with_none(text, "beta1", moments);
    Adam used = rule;
    if (moments == MomentsOn::none) used.beta1 = 0;
    return common(update_rule(used));
  }
};

struct Decay {
  double weight_decay;
  DecayOn decay_on = DecayOn::factors;
  void declare_decay(OptionSet& o) {
    o.number("weight_decay", weight_decay, kNonNegative, "λ of decoupled decay");
    o.choice(
        "decay_on", decay_on,
        {{"factors", DecayOn::factors}, {"initial", DecayOn::initial}, {"weight", DecayOn::weight}},
        "factors towards zero or towards their start, or the weight towards zero");
  }
  OptimizerSpec decayed(OptimizerSpec out, const Spec& text) const {
    out.decoupled_decay = weight_decay;
    out.decay_on = decay_on;
    out.decay_on_given = text.find("decay_on") != nullptr;
    return out;
  }
};

struct AdamWOptions : AdamOptions, Decay {
  AdamWOptions() : Decay{.weight_decay = 0.01} {}
  void declare(OptionSet& o) {
    declare_adam(o);
    declare_decay(o);
  }
  OptimizerSpec spec(const Spec& text) const { return decayed(AdamOptions::spec(text), text); }
};

struct AdafactorOptions : Common, Decay {
  Adafactor rule;
  AdafactorOptions() : Decay{.weight_decay = 0} {}
  void declare(OptionSet& o) {
    o.choice(
        "variant", rule.variant,
        {{"transformers", Adafactor::Variant::transformers}, {"torch", Adafactor::Variant::torch}},
        "eps1 added to the square, or a lower bound of the root of its average");
    o.number("beta1", rule.beta1, kShare, "decay of the average direction; 0: there is none");
    o.number("beta2_decay", rule.beta2_decay, {.most = 0}, "d of β₂ₜ = 1 − t^d");
    o.number("eps1", rule.eps1, {.least = 0, .open_below = true},
             "1e-30, for torch the machine epsilon", "see variant");
    o.number("eps2", rule.eps2, kNonNegative, "least root mean square of the parameter");
    o.number("clip_threshold", rule.clip_threshold, kNonNegative,
             "largest root mean square of a direction; 0: any");
    o.flag("scale_parameter", rule.scale_parameter, "multiply by the parameter's root mean square");
    declare_decay(o);
    declare_common(o);
  }
  OptimizerSpec spec(const Spec& text) const {
    reject_with_none(text, "beta1", moments);
    if (rule.variant == Adafactor::Variant::torch && rule.beta1 > 0) {
      throw std::invalid_argument("'" + to_string(text) +
                                  "': variant=torch has no beta1; there is variant=transformers");
    }
    return decayed(common(update_rule(rule)), text);
  }
};

struct Kind {
  const char* name;
  const char* summary;
  std::vector<OptionHelp> (*describe)(const std::string&);
  OptimizerSpec (*make)(const Spec&);
};

template <class Options>
Kind kind(const char* name, const char* summary) {
  return {name, summary, &describe_options<Options>,
          [](const Spec& spec) { return read_options<Options>(spec).spec(spec); }};
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      kind<SgdOptions>("sgd", "gradient descent, with momentum by option"),
      kind<AdamOptions>("adam", "Adam"),
      kind<AdamWOptions>("adamw", "Adam with decoupled weight decay"),
      kind<AdafactorOptions>("adafactor", "averages of the squares of rows and columns only"),
  };
  return all;
}

}  // namespace

OptimizerSpec make_optimizer_spec(const Spec& spec) {
  std::vector<std::string> names;
  for (const Kind& kind : kinds()) {
    if (spec.name == kind.name) return kind.make(spec);
    names.emplace_back(kind.name);
  }
  throw std::invalid_argument("no optimizer '" + spec.name + "'; there are " + join(names, ", ") +
                              did_you_mean(spec.name, names));
}

std::vector<RuleHelp> describe_optimizers() {
  std::vector<RuleHelp> all;
  for (const Kind& kind : kinds())
    all.push_back({kind.name, kind.summary, kind.describe(kind.name)});
  return all;
}

}  // namespace gradview
