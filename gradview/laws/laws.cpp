#include "gradview/laws.hpp"

#include <exception>
#include <map>

#include "gradview/core/text.hpp"
#include "gradview/laws/bench.hpp"
#include "gradview/optim/optimizer.hpp"

namespace gradview {
namespace laws {
namespace {

std::string broken(const char* what, double got, double allowed) {
  if (got <= allowed) return {};  // NaN is broken
  return std::string(what) + " " + exact(got) + ", allowed " + exact(allowed);
}

// Rounding of a sum of products over at most a few dozen entries, relative to the norms that enter
// it.
double rounding(double size) { return 64 * kEps * size; }

std::string adjoint(Bench& b) {
  b.leave_the_start();
  const Factors u = b.change(1);
  const Factors pulled = b.projector->project(Gradient::dense(b.g), b.weight);
  Matrix pushed = zeros(shape_of(b.weight));
  b.projector->unproject(u, pushed);
  const double size = norm(pulled) * norm(u) + norm(pushed) * norm(b.g);
  return broken("|⟨project(G), u⟩ − ⟨G, unproject(u)⟩| is",
                std::abs(inner(pulled, u) - dot(pushed, b.g)), rounding(size));
}

std::string lazy(Bench& b) {
  b.leave_the_start();
  const auto [m, n] = shape_of(b.weight);
  Gradient factored = Gradient::outer(share(b.draw({5, m}, 3)), share(b.draw({5, n}, 4)));
  factored.add(Gradient::outer(share(b.draw({4, m}, 5)), share(b.draw({4, n}, 6))), -0.5);
  const Factors one = b.projector->project(factored, b.weight);
  const Factors other = b.projector->project(Gradient::dense(factored.materialize()), b.weight);
  double off = 0;
  for (std::size_t k = 0; k < one.size(); ++k) off += norm(difference(one[k], other.at(k)));
  return broken("‖lazy − dense‖ is", off, rounding(4 * norm(other)));
}

std::string zero(Bench& b) {
  b.leave_the_start();
  const Matrix before = b.weight;
  const Factors theta = b.projector->factors();
  b.retract(times(b.change(1), 0), b.weight);
  if (!(before == b.weight)) return "W moved";
  return theta == b.projector->factors() ? "" : "θ moved";
}

double remainder(
    Bench& b,
    double size) {  // ‖retract(u) − lift(u)‖ from the present θ, which it leaves as it was
  std::vector<Matrix> saved;
  b.projector->fields([&](std::string_view, Matrix& value, Role) { saved.push_back(value); });
  const Factors u = b.change(size);
  Matrix moved = zeros(shape_of(b.weight));
  Matrix lifted = moved;
  b.projector->lift(u, lifted);
  b.retract(u, moved);
  std::size_t k = 0;
  b.projector->fields([&](std::string_view, Matrix& value, Role) { value = saved[k++]; });
  axpy(moved, -1, lifted);
  return norm(moved);
}

std::string order(Bench& b) {
  b.leave_the_start();
  if (b.projector->linear()) {
    return broken("ΔW is declared linear; ‖retract − lift‖ is", remainder(b, 1), rounding(4));
  }
  const double coarse = remainder(b, 0.5);
  const double fine = remainder(b, 0.25);
  if (coarse <= rounding(4)) return "ΔW is declared nonlinear, but retract − lift vanishes";
  return broken("retract − lift has the order 2 up to", std::abs(std::log2(coarse / fine) - 2),
                0.3);
}

std::string inverse(Bench& b) {
  b.leave_the_start();
  const Matrix before = b.weight;
  const Factors u = b.change(1);
  b.retract(u, b.weight);
  b.retract(times(u, -1), b.weight);
  return broken("‖W − W‖ after u and −u is", norm(difference(before, b.weight)),
                rounding(4 * norm(before)));
}

Optimizer optimizer(const std::string& spec, double lr, std::size_t steps, std::uint64_t seed) {
  return Optimizer(
      {.spec = make_optimizer_spec(parse_spec(spec)), .lr = lr, .steps = steps, .seed = seed});
}

// One step of plain SGD on ½‖W − target‖², G = W − target, and the first-order step −η T(G).
struct Descent {
  explicit Descent(const Bench& bench)
      : b(bench),
        target(b.draw(shape_of(b.weight), 7)),
        g(difference(b.weight, target)),
        tangent(zeros(shape_of(g))) {
    const auto fresh = b.make();
    b.begin(*fresh, g);
    Factors pulled = fresh->project(Gradient::dense(g), b.weight);
    fresh->penalize(pulled, b.site(0));
    fresh->precondition(pulled, b.site(0));
    for (std::size_t k = 0; k < pulled.size(); ++k) scale(pulled[k], fresh->rate(k));
    fresh->lift(pulled, tangent);
  }
  Matrix after(double lr) const {
    Matrix w = b.weight;
    Optimizer descent = optimizer("sgd", lr, kSteps, kSeed);
    descent.add("laws.weight", w, b.make());
    descent.collect("laws.weight", Gradient::dense(g));
    descent.step();
    return w;
  }
  double small_lr() const { return 0.02 / (1 + norm(tangent) / norm(g)); }

  const Bench& b;
  Matrix target, g, tangent;
};

std::string descent(const Bench& b) {
  const Descent d(b);
  const double distance = norm(difference(d.after(d.small_lr()), d.target));
  return distance < norm(d.g) ? "" : "a step of plain SGD does not lower a quadratic";
}

std::string operation(const Bench& b) {
  const Descent d(b);
  const double length = norm(d.tangent);
  if (!(length > 0)) return "T(G) vanishes";
  const auto off = [&](double lr) {
    Matrix moved = difference(d.after(lr), b.weight);
    axpy(moved, lr, d.tangent);
    return norm(moved) / (lr * length);
  };
  const double lr = d.small_lr();
  const double noise = 4 * kEps * norm(b.weight) / (lr * length);
  return broken("a step is off W − η T(G), relative to its own size over η, by", off(lr / 2),
                0.6 * off(lr) + rounding(1) + 2 * noise);
}

std::string product(Bench& b) {
  const auto gap = [&] {  // ‖W − W₀ − product‖
    const auto made = b.projector->product();
    Matrix off = difference(b.weight, b.start);
    if (made) add_matmul(off, -made->s, made->u, made->v);
    return norm(off);
  };
  const double at_start = gap();
  b.leave_the_start();
  const std::string off = "W − W₀ is off the exported product by";
  const std::string first = broken((off + " (at the start)").c_str(), at_start, rounding(4));
  return first.empty() ? broken(off.c_str(), gap(), rounding(4 + norm(b.weight))) : first;
}

std::string resume(Bench& b) {
  const Matrix start = b.weight;
  const auto gradient = [&](std::size_t step) {
    return Gradient::dense(b.draw(shape_of(start), 30 + step));
  };
  const auto advance = [&](Optimizer& o, std::size_t step) {
    o.collect("laws.weight", gradient(step));
    o.step();
  };
  const char* spec = "adamw:weight_decay=0.1,decay_on=initial,moments=factors,transport=rotate";
  for (const std::size_t stop : {2U, 3U}) {
    Matrix w = start;
    Optimizer through = optimizer(spec, 0.01, kSteps, kSeed);
    through.add("laws.weight", w, b.make());
    for (std::size_t step = 0; step < stop; ++step) advance(through, step);
    std::map<std::string, Matrix, std::less<>> saved;
    through.fields([&](std::string_view name, Matrix& value, Role) { saved.emplace(name, value); });
    Matrix restored = w;
    Matrix other_start = b.draw(shape_of(start), 8);
    Optimizer again = optimizer(spec, 0.01, kSteps, kSeed);
    again.add("laws.weight", other_start, b.make());
    other_start = restored;
    again.fields(
        [&](std::string_view name, Matrix& value, Role) { value = saved.at(std::string(name)); });
    for (std::size_t step = stop; step < stop + 2; ++step) {
      advance(through, step);
      advance(again, step);
    }
    if (!(w == other_start))
      return "the step after a restart at " + std::to_string(stop) + " differs";
  }
  return {};
}

std::string size(Bench& b, const Spec& spec) {
  const Count count = count_numbers(spec, shape_of(b.weight));
  std::size_t trained = 0;
  std::size_t stored = 0;
  for (const Matrix& factor : b.change(1)) trained += factor.size();
  b.projector->fields([&](std::string_view, Matrix& value, Role role) {
    if (role == Role::frozen) stored += value.size();
  });
  if (trained != count.trained || stored != count.stored) {
    return "trained " + std::to_string(trained) + " and stored " + std::to_string(stored) +
           ", count says " + std::to_string(count.trained) + " and " + std::to_string(count.stored);
  }
  Matrix w = b.weight;
  Optimizer adam = optimizer("adam:moments=factors", 0.1, kSteps, kSeed);
  adam.add("laws.weight", w, b.make());
  const std::size_t bytes = (2 * count.trained + count.stored) * sizeof(Real);
  if (adam.state_bytes() == bytes) return {};
  return "Adam keeps " + std::to_string(adam.state_bytes()) + " bytes, expected " +
         std::to_string(bytes);
}

// Largest |(w − start)_ij − (entry(after) − entry(before))_ij|.
double off_formula(const Bench& b, const Matrix& moved, const Factors& before,
                   const Factors& after) {
  double worst = 0;
  for (std::size_t i = 0; i < moved.shape()[0]; ++i) {
    for (std::size_t j = 0; j < moved.shape()[1]; ++j) {
      const double off = moved(i, j) - (b.entry(after, i, j) - b.entry(before, i, j));
      if (!(std::abs(off) <= worst)) worst = std::abs(off);
    }
  }
  return worst;
}

std::string formula(Bench& b) {
  b.leave_the_start();
  const Factors before = b.theta();
  const Factors u = b.change(2);
  Matrix moved = zeros(shape_of(b.weight));
  b.retract(u, moved);
  Factors after = before;
  for (std::size_t k = 0; k < u.size(); ++k) axpy(after[k], 1, u[k]);
  return broken("the change of W is off the formula by", off_formula(b, moved, before, after),
                rounding(4 + norm(moved)));
}

std::string expectation(Bench& b, const Spec& spec, const Wrap& wrap) {
  const auto declared = b.projector->expectation();
  constexpr int kDraws = 1500;
  const Shape shape = shape_of(b.weight);
  const Matrix& g = b.g;
  const double energy = squared_norm(g);
  const Matrix other = b.draw(shape, 9);
  struct Mean {
    double sum = 0, squares = 0;
    void add(double x) { sum += x, squares += x * x; }
    std::string off(const char* what, double expected) const {
      const double mean = sum / kDraws;
      const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
      return broken(what, std::abs(mean - expected), 5 * error + rounding(std::abs(expected)));
    }
  } gain, across, variance;
  for (int draw = 0; draw < kDraws; ++draw) {
    const Bench one(spec, shape, wrap, kSeed + 1 + static_cast<std::uint64_t>(draw));
    Matrix t = zeros(shape);
    one.projector->lift(one.projector->project(Gradient::dense(g), b.weight), t);
    gain.add(dot(t, g) / energy);
    across.add(dot(t, other));
    axpy(t, -declared->mean, g);
    variance.add(squared_norm(t) / energy);
  }
  std::string what = gain.off("⟨E[JJᵀG], G⟩/‖G‖² is off its declared mean by", declared->mean);
  if (what.empty()) {
    what = across.off("E[JJᵀG] along another matrix is off by", declared->mean * dot(g, other));
  }
  if (what.empty()) what = variance.off("the variance is off by", declared->variance);
  return what;
}

// to += ΔW(after) − ΔW(before)
void add_change(const Bench& b, Matrix& to, const Factors& before, const Factors& after) {
  for (std::size_t i = 0; i < to.shape()[0]; ++i) {
    for (std::size_t j = 0; j < to.shape()[1]; ++j) {
      to(i, j) += static_cast<Real>(b.entry(after, i, j) - b.entry(before, i, j));
    }
  }
}

// A method that restarts leaves in W what its factors said before: each stretch between two
// restarts adds its own change.
std::string drift(Bench& b) {
  const Matrix start = b.weight;
  Optimizer adam = optimizer("adam", 1e-3, kSteps, kSeed);
  adam.add("laws.weight", b.weight, b.make());
  Factors first, last;  // θ where the present stretch of steps began, and now
  Matrix left_behind = start;
  for (std::size_t step = 0; step < kSteps; ++step) {
    Matrix g = difference(b.weight, b.g);
    axpy(g, 0.5, b.draw(shape_of(g), 1000 + step % 97));
    adam.collect("laws.weight", Gradient::dense(std::move(g)));
    const Factors now = adam.projector("laws.weight").factors();
    if (now != last) {
      if (step > 0) add_change(b, left_behind, first, last);
      first = now;
    }
    adam.step();
    last = adam.projector("laws.weight").factors();
  }
  const double allowed = 16 * std::sqrt(static_cast<double>(kSteps)) * kEps * (1 + norm(start));
  return broken("W has drifted from W₀ + ΔW(θ) − ΔW(θ₀) by",
                off_formula(b, difference(b.weight, left_behind), first, last), allowed);
}

std::string run(Law law, const Spec& spec, Shape shape, const Wrap& wrap) {
  Bench b(spec, shape, wrap);
  switch (law) {
    case Law::adjoint:
      return adjoint(b);
    case Law::lazy:
      return lazy(b);
    case Law::zero:
      return zero(b);
    case Law::order:
      return order(b);
    case Law::inverse:
      return inverse(b);
    case Law::descent:
      return descent(b);
    case Law::operation:
      return operation(b);
    case Law::resume:
      return resume(b);
    case Law::size:
      return size(b, spec);
    case Law::formula:
      return formula(b);
    case Law::product:
      return product(b);
    case Law::expectation:
      return expectation(b, spec, wrap);
    case Law::drift:
      return drift(b);
  }
  return "unknown law";
}

// Why a law has nothing to say about this projector; empty where it has.
std::string silent(Law law, Projector& projector) {
  if (law == Law::product && !projector.product()) return "ΔW is not exported as one product";
  if (law == Law::expectation && !projector.expectation()) return "no random frames are redrawn";
  if (law == Law::drift && projector.factors().empty()) return "no factors persist between steps";
  return projector.exempt(law);
}

}  // namespace

Verdict judge(Law law, const Spec& spec, const Wrap& wrap) {
  const std::string reason = silent(law, *Bench(spec, kShapes[0], wrap).projector);
  if (!reason.empty()) return {law, true, reason};
  for (const Shape shape : kShapes) {
    std::string detail;
    try {
      detail = run(law, spec, shape, wrap);
    } catch (const std::exception& error) {
      detail = error.what();
    }
    if (!detail.empty()) return {law, false, to_string(shape) + ": " + detail};
  }
  return {law, true, {}};
}

}  // namespace laws

const std::vector<Law>& all_laws() {
  static const std::vector<Law> all{Law::adjoint, Law::lazy,    Law::zero,      Law::order,
                                    Law::inverse, Law::descent, Law::operation, Law::resume,
                                    Law::size,    Law::formula, Law::product,   Law::expectation,
                                    Law::drift};
  return all;
}

std::string to_string(Law law) {
  static const char* const names[] = {"adjoint", "lazy",        "zero",   "order", "inverse",
                                      "descent", "operation",   "resume", "size",  "formula",
                                      "product", "expectation", "drift"};
  return names[static_cast<std::size_t>(law)];
}

std::vector<Verdict> check_laws(const std::string& text) {
  const Spec spec = parse_spec(text);
  std::vector<Verdict> verdicts;
  for (const Law law : all_laws()) verdicts.push_back(laws::judge(law, spec, {}));
  return verdicts;
}

std::vector<std::string> broken_laws(const std::string& spec) {
  std::vector<std::string> out;
  for (const Verdict& verdict : check_laws(spec)) {
    if (!verdict.holds) out.push_back(to_string(verdict.law) + ": " + verdict.detail);
  }
  return out;
}

}  // namespace gradview
