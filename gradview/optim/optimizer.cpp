#include "gradview/optim/optimizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <typeindex>
#include <utility>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"
#include "gradview/optim/transport.hpp"

namespace gradview {

namespace {

// Adds the seconds of its life to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& sum_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

double squared_norms(const Factors& factors) {
  double squares = 0;
  for (const Matrix& factor : factors) squares += squared_norm(factor);
  return squares;
}

const Matrix& nothing() {
  static const Matrix none = zeros({0, 0});
  return none;
}

}  // namespace

Optimizer::Optimizer(Settings settings) : settings_(std::move(settings)) {}

Site Optimizer::new_site(const std::string& name, const Matrix& weight) const {
  return {.name = name, .weight = weight, .seed = settings_.seed, .steps = settings_.steps};
}

Site Optimizer::new_site(const std::string& name, const QuantisedMatrix& weight) const {
  return {.name = name,
          .weight = nothing(),
          .seed = settings_.seed,
          .steps = settings_.steps,
          .quantised = &weight};
}

const Matrix& Optimizer::Slot::w() const { return weight ? *weight : nothing(); }

Site Optimizer::site(const Slot& slot) const {
  return {.name = slot.name,
          .weight = slot.w(),
          .seed = settings_.seed,
          .step = step_,
          .steps = settings_.steps,
          .before_softmax = slot.before_softmax,
          .moments = slot.moments_on_weight ? std::span<const Moments>() : slot.moments,
          .peers = slot.peers,
          .transports = slot.transport != Transport::keep && !slot.moments_on_weight &&
                        std::any_of(slot.moments.begin(), slot.moments.end(),
                                    [](const Moments& m) { return m.size() > 0; }),
          .quantised = slot.quantised};
}

void Optimizer::add(const std::string& name, Matrix& weight, std::unique_ptr<Projector> projector,
                    bool before_softmax, bool decayed) {
  add({.name = name,
       .weight = &weight,
       .quantised = nullptr,
       .shape = shape_of(weight),
       .projector = std::move(projector),
       .before_softmax = before_softmax},
      decayed);
}

void Optimizer::add(const std::string& name, const QuantisedMatrix& weight,
                    std::unique_ptr<Projector> projector, bool before_softmax) {
  if (!projector->update()) {
    throw std::invalid_argument("Optimizer: '" + name +
                                "' is kept in 4 bits and does not move; its projector has no "
                                "product that stays beside it, as lora, dora and adalora have");
  }
  add({.name = name,
       .weight = nullptr,
       .quantised = &weight,
       .shape = weight.shape(),
       .projector = std::move(projector),
       .before_softmax = before_softmax},
      true);
}

void Optimizer::add(Slot slot, bool decayed) {
  for (const Slot& other : slots_) {
    if (other.name == slot.name)
      throw std::invalid_argument("Optimizer: '" + slot.name + "' is there already");
  }
  slot.prepared = slot.gradient = Gradient(slot.shape);
  const Factors shapes = slot.projector->project(slot.gradient, slot.w());
  for (const Matrix& factor : shapes) slot.trained += factor.size();
  slot.projector->fields([&](std::string_view, Matrix& value, Role role) {
    if (role == Role::frozen) slot.frozen += value.size();
  });
  set_moments(slot, shapes);
  set_decay(slot, decayed);
  if (slot.quantised && (slot.moments_on_weight || slot.decays_weight)) {
    throw std::invalid_argument(
        "Optimizer: '" + slot.name +
        "' is kept in 4 bits: its moments and its decay are on the factors; "
        "there are moments=factors, none, decay_on=factors, initial");
  }
  const auto& made = *slot.projector;
  for (Slot& other : slots_) {
    const auto& others = *other.projector;
    if (typeid(others) == typeid(made)) slot.peers = ++other.peers;
  }
  slots_.push_back(std::move(slot));
}

void Optimizer::set_moments(Slot& slot, const Factors& shapes) const {
  const OptimizerSpec& spec = settings_.spec;
  const Projector& projector = *slot.projector;
  const bool keeps_any = !shapes.empty() && spec.rule.start({1, 1}).size() > 0;
  slot.moments_of_lifted = keeps_any && spec.moments == MomentsOn::lifted;
  slot.moments_on_weight =
      slot.moments_of_lifted ||
      (keeps_any && (spec.moments == MomentsOn::weight ||
                     (spec.moments == MomentsOn::automatic && projector.moments_on_weight())));
  if (slot.moments_on_weight) {
    slot.moments.push_back(spec.rule.start(slot.shape));
    return;
  }
  for (const Matrix& factor : shapes) slot.moments.push_back(spec.rule.start(shape_of(factor)));
  const std::size_t every = projector.refresh_every();
  slot.transport = spec.transport == Transport::automatic ? projector.transport() : spec.transport;
  if (every == 0 || spec.rule.memory == 0 || slot.transport != Transport::project) return;
  const double growth = projector.transfer_growth();
  if (transfer_factor(spec.rule.memory, every, growth) < 1) return;
  throw std::invalid_argument(fmt::format(
      "transport=project on '{}': each transfer multiplies the average's energy by {:.3g}, {} "
      "step(s) of memory {:.3g} do not make up for it, and it diverges; take refresh_every={} or "
      "more, transport=rotate or reset, or moments=weight",
      slot.name, growth, every, spec.rule.memory, least_sound_interval(spec.rule.memory, growth)));
}

// Methods without persistent factors (full, whose θ is W; frames) decay W itself.
void Optimizer::set_decay(Slot& slot, bool decayed) const {
  const OptimizerSpec& spec = settings_.spec;
  if (!decayed || slot.trained == 0) return;
  slot.coupled = spec.coupled_decay;
  slot.decoupled = spec.decoupled_decay;
  const Factors theta = slot.projector->factors();
  slot.decays_weight = theta.empty() || spec.decay_on == DecayOn::weight;
  if (theta.empty() && spec.decay_on_given && spec.decay_on == DecayOn::factors &&
      slot.projector->refresh_every() > 0) {
    throw std::invalid_argument("decay_on=factors: the projector of '" + slot.name +
                                "' keeps no factors between steps; there are initial, weight");
  }
  if (slot.decays_weight && slot.projector->owns_weight()) {
    throw std::invalid_argument("decay_on=weight: the projector of '" + slot.name +
                                "' reads its state back from W; there are factors, initial");
  }
  if (slot.decoupled > 0 && spec.decay_on == DecayOn::initial) {
    slot.anchor = slot.decays_weight ? Factors{slot.w()} : theta;
  }
}

namespace {

// A product of factors that are all zero gets no gradient and never leaves that point.
void refuse_dead_saddle(const std::string& name, Projector& projector) {
  const Factors theta = projector.factors();
  const bool dead =
      !theta.empty() && !projector.linear() &&
      std::all_of(theta.begin(), theta.end(), [](const Matrix& a) {
        return std::all_of(a.data(), a.data() + a.size(), [](Real x) { return x == 0; });
      });
  if (!dead) return;
  throw std::invalid_argument(
      "Optimizer: every factor of '" + name +
      "' is zero, a saddle that no gradient leaves; start one of them elsewhere");
}

}  // namespace

Optimizer::Slot& Optimizer::find(const std::string& name) {
  for (Slot& slot : slots_) {
    if (slot.name == name) return slot;
  }
  throw std::invalid_argument("Optimizer: no parameter '" + name + "'" +
                              did_you_mean(name, names()));
}

std::vector<std::string> Optimizer::names() const {
  std::vector<std::string> all;
  for (const Slot& slot : slots_) all.push_back(slot.name);
  return all;
}

Projector& Optimizer::projector(const std::string& name) { return *find(name).projector; }

const Observation& Optimizer::observation(const std::string& name) const {
  return const_cast<Optimizer*>(this)->find(name).observation;
}

bool Optimizer::wants_prepass() const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return slot.projector->starts_from_gradient(); });
}

void Optimizer::prepare(const std::string& name, const Gradient& g, double share) {
  Slot& slot = find(name);
  require_shape("Optimizer::prepare", name.c_str(), g.shape(), slot.shape);
  if (step_ > 0) throw std::invalid_argument("Optimizer::prepare: training has begun");
  if (slot.projector->starts_from_gradient()) slot.prepared.add(g, share);
}

void Optimizer::start(Slot& slot, const Gradient& g) const {
  slot.projector->start(slot.prepared.empty() ? g : slot.prepared, site(slot));
  slot.prepared = Gradient(g.shape());
  refuse_dead_saddle(slot.name, *slot.projector);
  if (!slot.anchor.empty() && !slot.decays_weight) slot.anchor = slot.projector->factors();
}

double Optimizer::lr() const { return settings_.lr * settings_.schedule(step_, settings_.steps); }

void Optimizer::collect(const std::string& name, const Gradient& g, double share) {
  Slot& slot = find(name);
  require_shape("Optimizer::collect", name.c_str(), g.shape(), slot.shape);
  if (!slot.collected) {
    if (step_ == 0) start(slot, g);
    const Stopwatch watch(seconds_.refresh);
    const Changes changes = slot.projector->refresh(g, site(slot));
    for (std::size_t k = 0; k < changes.size() && !slot.moments_on_weight; ++k) {
      if (changes[k]) transport_moments(slot.transport, *changes[k], slot.moments[k]);
    }
    slot.projected.clear();
    slot.gradient = Gradient(g.shape());
  }
  const Stopwatch watch(seconds_.project);
  if (g.alone() && share == 1 && !slot.collected && moves_weight_itself(slot) &&
      !std::isfinite(settings_.clip)) {
    slot.gradient = g;  // shared until the step, not copied
    slot.collected = true;
    return;
  }
  if (slot.collected && slot.projected.empty() && moves_weight_itself(slot)) {  // one more comes
    slot.projected = slot.projector->project(slot.gradient, slot.w());
    slot.gradient = Gradient(g.shape());
  }
  if (keeps_gradient(slot)) slot.gradient.add(g, share);
  if (!slot.moments_on_weight || slot.moments_of_lifted || observing_ ||
      std::isfinite(settings_.clip)) {
    Factors more = slot.projector->project(g, slot.w());
    if (slot.projected.empty()) {
      slot.projected = std::move(more);
      if (share != 1) {
        for (Matrix& factor : slot.projected) scale(factor, share);
      }
    } else {
      for (std::size_t k = 0; k < more.size(); ++k) axpy(slot.projected[k], share, more[k]);
    }
  }
  slot.collected = true;
}

double Optimizer::clip_factor() const {
  if (!std::isfinite(settings_.clip)) return 1;
  double squares = 0;
  for (const Slot& slot : slots_) squares += squared_norms(slot.projected);
  const double norm = std::sqrt(squares);
  return norm > settings_.clip ? settings_.clip / norm : 1;
}

// rule(P JᵀG), or P Jᵀ rule(G) where the moments live on the weight; with what is coupled to the
// gradient.
Factors Optimizer::direction(Slot& slot) const {
  const Projector& projector = *slot.projector;
  const Site here = site(slot);
  if (slot.moments_on_weight) {
    Matrix g = slot.moments_of_lifted ? zeros(slot.shape) : slot.gradient.materialize();
    if (slot.moments_of_lifted) {
      projector.precondition(slot.projected, here);
      projector.lift(slot.projected, g);
    }
    if (slot.coupled > 0) axpy(g, slot.coupled, *slot.weight);
    settings_.spec.rule.apply(g, slot.moments[0], *slot.weight);
    slot.gradient = Gradient::dense(std::move(g));
    slot.projected = projector.project(slot.gradient, *slot.weight);
    if (!slot.moments_of_lifted) projector.penalize(slot.projected, here);
    projector.precondition(slot.projected, here);
    return slot.projected;
  }
  projector.precondition(slot.projected, here);
  std::vector<const Matrix*> theta;
  slot.projector->fields([&](std::string_view, Matrix& value, Role role) {
    if (role == Role::trained) theta.push_back(&value);
  });
  Factors out = slot.projected;
  Factors pull;  // of coupled decay: θ, or Jᵀ W where W itself decays
  if (slot.coupled > 0) {
    pull = slot.decays_weight ? slot.projector->project(Gradient::dense(*slot.weight), *slot.weight)
                              : slot.projector->factors();
  }
  for (std::size_t k = 0; k < out.size(); ++k) {
    if (!pull.empty()) axpy(out[k], slot.coupled, pull[k]);
    settings_.spec.rule.apply(out[k], slot.moments[k], theta.empty() ? slot.w() : *theta[k]);
  }
  return out;
}

// What the rule multiplies the learning rate of one factor by.
double Optimizer::rule_rate(const Slot& slot, std::size_t factor) const {
  if (!settings_.spec.rule.rate || slot.moments.empty()) return 1;
  return settings_.spec.rule.rate(slot.moments[slot.moments_on_weight ? 0 : factor].step);
}

// Decoupled: −lr λ (θ − θ₀) joins the change of the factors; on the weight it is done at once.
void Optimizer::decay(Slot& slot, Factors& direction, double lr) const {
  if (slot.decoupled == 0) return;
  if (slot.decays_weight) {
    scale(*slot.weight, 1 - lr * slot.decoupled);
    if (!slot.anchor.empty()) axpy(*slot.weight, lr * slot.decoupled, slot.anchor[0]);
    return;
  }
  const Factors theta = slot.projector->factors();
  for (std::size_t k = 0; k < direction.size(); ++k) {
    const double rate = lr * slot.projector->rate(k) * slot.decoupled;
    axpy(direction[k], -rate, theta[k]);
    if (!slot.anchor.empty()) axpy(direction[k], rate, slot.anchor[k]);
  }
}

void Optimizer::observe_gradient(Slot& slot) const {
  Observation& seen = slot.observation;
  seen = {};
  seen.gradient = squared_norm(slot.gradient);
  seen.inner =
      squared_norms(slot.projected);  // but for dora:norm=detached, whose project is not Jᵀ
  Matrix tangent = zeros(slot.shape);
  slot.projector->lift(slot.projected, tangent);
  seen.tangent = squared_norm(tangent);
}

// W is the factor and nothing looks at the step itself: rule, decay and move in one pass over W.
bool Optimizer::moves_weight_itself(const Slot& slot) const {
  return settings_.spec.rule.move && slot.projector->is_weight() && !slot.moments_on_weight &&
         !slot.projector->needs_gradient() && slot.anchor.empty() && !observing_;
}

void Optimizer::move_weight_itself(Slot& slot, double lr) const {
  const UpdateRule& rule = settings_.spec.rule;
  const double rate = rule.rate ? rule.rate(slot.moments[0].step + 1) : 1;
  const Matrix& g = slot.projected.empty() ? *slot.gradient.alone() : slot.projected[0];
  rule.move(*slot.weight, g, slot.moments[0],
            {.lr = static_cast<Real>(lr * rate * slot.projector->rate(0)),
             .keep = static_cast<Real>(1 - lr * slot.decoupled),
             .pull = static_cast<Real>(slot.coupled)});
  slot.projected.clear();
}

void Optimizer::shrink(Slot& slot, double s) const {
  for (Matrix& factor : slot.projected) scale(factor, s);
  Gradient shrunk(slot.gradient.shape());
  shrunk.add(std::move(slot.gradient), s);
  slot.gradient = std::move(shrunk);
}

std::string Optimizer::not_finite() const {
  const auto finite = [](const Slot& slot) {
    if (!slot.collected) return true;
    if (slot.projected.empty()) return slot.gradient.finite();
    return std::all_of(slot.projected.begin(), slot.projected.end(), all_finite);
  };
  const auto bad = std::find_if_not(slots_.begin(), slots_.end(), finite);
  return bad == slots_.end() ? "" : bad->name;
}

double Optimizer::clip(double most) {
  double squares = 0;
  for (Slot& slot : slots_) {
    if (!slot.collected) continue;
    if (slot.projected.empty() && moves_weight_itself(slot)) {
      slot.projected = slot.projector->project(slot.gradient, slot.w());
      slot.gradient = Gradient(slot.gradient.shape());
    }
    squares += slot.projected.empty()
                   ? squared_norms(slot.projector->project(slot.gradient, slot.w()))
                   : squared_norms(slot.projected);
  }
  const double norm = std::sqrt(squares);
  for (Slot& slot : slots_) {
    if (slot.collected && norm > most) shrink(slot, most / norm);
  }
  return norm;
}

void Optimizer::drop() {
  for (Slot& slot : slots_) {
    slot.collected = false;
    slot.projected.clear();
    slot.gradient = Gradient(slot.shape);
  }
}

bool Optimizer::keeps_gradient(const std::string& name) { return keeps_gradient(find(name)); }

void Optimizer::advance(Slot& slot, double clip, double lr) {
  if (clip != 1) shrink(slot, clip);
  std::optional<Stopwatch> watch(std::in_place, seconds_.rule);
  if (moves_weight_itself(slot)) return move_weight_itself(slot, lr);
  Factors u = direction(slot);
  const Factors ruled = slot.projector->needs_gradient() ? u : Factors();
  for (std::size_t k = 0; k < u.size(); ++k) {
    scale(u[k], -lr * rule_rate(slot, k) * slot.projector->rate(k));
  }
  watch.emplace(seconds_.update);
  Matrix change = observing_ && !slot.weight ? zeros(slot.shape) : Matrix();  // of ΔW, beside W
  Matrix* const w = slot.weight ? slot.weight : observing_ ? &change : nullptr;
  const Matrix before = observing_ ? *w : Matrix();
  decay(slot, u, lr);
  Matrix lifted;
  Matrix decayed;
  if (observing_) {
    decayed = *w;
    lifted = zeros(slot.shape);
    slot.projector->lift(u, lifted);
  }
  slot.projector->retract({slot.gradient, slot.projected, u, lr * rule_rate(slot, 0), ruled}, w);
  if (!observing_) return;
  slot.observation.update = squared_norm(difference(*w, before));
  slot.observation.lifted = squared_norm(lifted);
  if (slot.projector->linear()) return;
  Matrix moved = difference(*w, decayed);
  axpy(moved, -1, lifted);
  slot.observation.remainder = squared_norm(moved);
}

void Optimizer::step() { step(std::vector<double>(slots_.size(), lr())); }

void Optimizer::step(std::span<const double> lr) {
  if (lr.size() != slots_.size()) {
    throw std::invalid_argument(fmt::format("Optimizer::step: {} learning rates for {} matrices",
                                            lr.size(), slots_.size()));
  }
  observation_ = observing_ ? Observation{} : observation_;
  for (Slot& slot : slots_) {
    if (!slot.collected) continue;
    if (observing_) observe_gradient(slot);
    if (!slot.moments_on_weight || slot.moments_of_lifted) {
      slot.projector->penalize(slot.projected, site(slot));
    }
  }
  const double clip = clip_factor();
  for (std::size_t k = 0; k < slots_.size(); ++k) {
    Slot& slot = slots_[k];
    if (!slot.collected) continue;
    advance(slot, clip, lr[k]);
    if (observing_) observation_ += slot.observation;
    slot.collected = false;
    slot.gradient = Gradient(slot.shape);  // lets δ and x go
  }
  finish_step();
  observing_ = false;
  ++step_;
}

void Optimizer::finish_step() {
  std::vector<std::type_index> classes;
  for (const Slot& first : slots_) {
    const auto& first_projector = *first.projector;
    const std::type_index type = typeid(first_projector);
    if (std::find(classes.begin(), classes.end(), type) != classes.end()) continue;
    classes.push_back(type);
    std::vector<Projector::Peer> peers;
    for (const Slot& slot : slots_) {
      const auto& projector = *slot.projector;
      if (type == typeid(projector)) peers.push_back({*slot.projector, slot.weight, site(slot)});
    }
    first.projector->after_step(peers);
  }
}

void Optimizer::fields(const Visit& visit) {
  const auto number = [&](const std::string& name, std::size_t& value) {
    Matrix cell = zeros({1, 1});
    cell(0, 0) = static_cast<Real>(value);
    visit(name, cell, Role::frozen);
    value = static_cast<std::size_t>(cell(0, 0));
  };
  number("step", step_);
  for (Slot& slot : slots_) {
    slot.projector->fields([&](std::string_view name, Matrix& value, Role role) {
      visit(slot.name + "." + std::string(name), value, role);
    });
    for (std::size_t k = 0; k < slot.moments.size(); ++k) {
      const std::string prefix = slot.name + ".moments." + std::to_string(k);
      Moments& moments = slot.moments[k];
      number(prefix + ".step", moments.step);
      const auto average = [&](const char* which, Matrix& value) {
        if (value.size() > 0) visit(prefix + which, value, Role::frozen);
      };
      average(".first", moments.first);
      average(".second", moments.second);
      average(".row", moments.row);
      average(".column", moments.column);
    }
    for (std::size_t k = 0; k < slot.anchor.size(); ++k) {
      visit(slot.name + ".anchor." + std::to_string(k), slot.anchor[k], Role::frozen);
    }
  }
}

std::size_t Optimizer::state_bytes() const {
  std::size_t numbers = 0;
  for (const Slot& slot : slots_) {
    numbers += slot.frozen;
    for (const Moments& moments : slot.moments) numbers += moments.size();
    for (const Matrix& anchor : slot.anchor) numbers += anchor.size();
  }
  return numbers * sizeof(Real);
}

}  // namespace gradview
