// The laws' own test: would they notice a fault?
#include <algorithm>

#include "gradview/laws/bench.hpp"

namespace gradview {
namespace laws {
namespace {

// A projector with one fault. Faults act on what goes in and out; the formula stays the true one.
struct Fault {
  const char* name;
  double pull = 1, push = 1;  // factors on project, and on lift and retract
  bool swap = false, first_order = false, forgets = false;
};

class Mutant final : public Projector {
 public:
  Mutant(Fault fault, std::unique_ptr<Projector> inner) : fault_(fault), inner_(std::move(inner)) {}
  bool starts_from_gradient() const override { return inner_->starts_from_gradient(); }
  void start(const Gradient& g, const Site& s) override { inner_->start(g, s); }
  Changes refresh(const Gradient& g, const Site& s) override { return inner_->refresh(g, s); }
  void penalize(Factors& g, const Site& s) const override { inner_->penalize(g, s); }
  void precondition(Factors& g, const Site& s) const override { inner_->precondition(g, s); }
  Factors project(const Gradient& g, const Matrix& w) const override {
    Factors out = times(inner_->project(g, w), fault_.pull);
    if (fault_.swap && out.size() > 1) {
      for (std::size_t k = 0; k < 2; ++k) {  // the other factor's numbers in this one's shape
        Matrix& to = out[k];
        const Matrix from = inner_->project(g, w)[1 - k];
        for (std::size_t i = 0; i < to.size(); ++i) to.data()[i] = from.data()[i % from.size()];
      }
    }
    return out;
  }
  void lift(const Factors& u, Matrix& w) const override { inner_->lift(times(u, fault_.push), w); }
  void unproject(const Factors& u, Matrix& w) const override {
    inner_->unproject(times(u, fault_.push), w);
  }
  void retract(const Step& step, Matrix* w) override {
    Matrix moved = zeros(shape_of(*w));
    if (fault_.first_order) inner_->lift(step.direction, moved);
    Matrix exact_move = zeros(shape_of(*w));
    inner_->retract(step, &exact_move);
    axpy(*w, fault_.push, fault_.first_order ? moved : exact_move);
  }
  double entry(const Factors& theta, const Matrix& start, std::size_t i,
               std::size_t j) const override {
    return inner_->entry(theta, start, i, j);
  }
  std::optional<LowRank> product() const override { return inner_->product(); }
  void fields(const Visit& visit) override {
    bool forget = fault_.forgets;  // the first field is shown, but what is put there is lost
    inner_->fields([&](std::string_view name, Matrix& value, Role role) {
      Matrix copy = value;
      visit(name, forget ? copy : value, role);
      forget = false;
    });
  }
  double rate(std::size_t k) const override { return inner_->rate(k); }
  bool linear() const override { return inner_->linear(); }
  bool needs_gradient() const override { return inner_->needs_gradient(); }
  std::size_t refresh_every() const override { return inner_->refresh_every(); }
  bool moments_on_weight() const override { return inner_->moments_on_weight(); }
  Transport transport() const override { return inner_->transport(); }
  double transfer_growth() const override { return inner_->transfer_growth(); }
  std::optional<Expectation> expectation() const override { return inner_->expectation(); }
  std::string exempt(Law law) const override { return inner_->exempt(law); }

 private:
  Fault fault_;
  std::unique_ptr<Projector> inner_;
};

// The faults that make a difference to this method.
std::vector<Fault> faults(const Spec& spec) {
  const Bench b(spec, kShapes[0], {});
  const Factors u = b.change(1);
  if (u.empty()) return {};
  const double rank = static_cast<double>(std::min(u[0].shape()[0], u[0].shape()[1]));
  std::vector<Fault> all{
      {.name = "project, lift and retract scaled by 2", .pull = 2, .push = 2},
      {.name = "project scaled by 2", .pull = 2},
      {.name = "wrong sign of project", .pull = -1},
      {.name = "wrong sign throughout", .pull = -1, .push = -1},
  };
  if (rank > 1) {
    all.push_back({.name = "alpha for alpha/r", .pull = rank, .push = rank});
    all.push_back({.name = "variance times r", .pull = std::sqrt(rank), .push = std::sqrt(rank)});
  }
  if (u.size() > 1) all.push_back({.name = "swapped factors", .swap = true});
  if (!b.projector->linear()) all.push_back({.name = "no second-order term", .first_order = true});
  bool has_state = false;
  b.projector->fields([&](std::string_view, Matrix&, Role) { has_state = true; });
  if (has_state) all.push_back({.name = "a field is not restored", .forgets = true});
  return all;
}

}  // namespace
}  // namespace laws

std::vector<std::string> surviving_mutants(const std::string& text) {
  const Spec spec = parse_spec(text);
  std::vector<std::string> survivors;
  for (const laws::Fault& fault : laws::faults(spec)) {
    const laws::Wrap wrap = [&](std::unique_ptr<Projector> inner) {
      return std::make_unique<laws::Mutant>(fault, std::move(inner));
    };
    bool noticed = false;
    for (const Law law : all_laws()) {
      noticed = noticed || !laws::judge(law, spec, wrap).holds;
    }
    if (!noticed) survivors.emplace_back(fault.name);
  }
  return survivors;
}

}  // namespace gradview
