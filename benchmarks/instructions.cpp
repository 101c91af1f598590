// The workloads whose instructions benchmarks/instructions.py counts: small fixed inputs, one
// thread. Each runs once uncounted, so that what is made at the first call is there.
//     valgrind --tool=callgrind --instr-atstart=no build-instructions/bin/instructions [NAME ...]
// dumps one profile per workload, with its name as the trigger; --compiler prints who compiled it.
#include <valgrind/callgrind.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "gradview/core/thin.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

constexpr std::size_t kRows = 192, kCols = 256, kTokens = 96;

Matrix filled(Shape shape, const char* name) { return normal(shape, 1, {1, Purpose::test, name}); }
Matrix weight() { return filled({kRows, kCols}, "w"); }
Matrix left(std::size_t r) { return filled({kRows, r}, "u"); }
Matrix right(std::size_t r) { return filled({r, kCols}, "v"); }
Gradient dense() { return Gradient::dense(filled({kRows, kCols}, "g")); }
Gradient factored() {
  return Gradient::outer(share(filled({kTokens, kRows}, "delta")),
                         share(filled({kTokens, kCols}, "x")));
}

using Work = std::function<void()>;
struct Workload {
  std::string name;
  std::function<Work()> make;
};

template <class State, class Run>
Work work(State state, Run run) {
  return [kept = std::make_shared<State>(std::move(state)), run] { run(*kept); };
}

Work sides_of(Gradient g, std::size_t r) {
  struct State {
    Gradient g;
    Matrix u, v;
  };
  return work(State{std::move(g), left(r), right(r)}, [](State& s) { sides(s.g, s.u, s.v); });
}

Work folded_of(Gradient g, std::size_t r) {
  return work(std::move(g), [r](Gradient& of) { folded(of, r); });
}

Work products(std::size_t r) {
  struct State {
    Matrix w, u, v, du, dv;
  };
  return work(State{weight(), left(r), right(r), left(r), right(r)}, [](State& s) {
    add_products(s.w, 1e-3, {{s.du, s.v}, {s.u, s.dv}});
  });
}

Work unfolded(std::size_t r) {
  struct State {
    Matrix w, u, v;
  };
  return work(State{weight(), left(r), right(r)}, [](State& s) { add_unfolded(s.w, s.u, s.v); });
}

struct Ruled {
  Matrix w, g;
  Moments moments;
};

template <class Rule>
Work move(Rule rule) {
  return work(Ruled{weight(), filled({kRows, kCols}, "g"), rule.start({kRows, kCols})},
              [rule](Ruled& s) { rule.move(s.w, s.g, s.moments, {.lr = 1e-3F}); });
}

template <class Rule>
Work direction(Rule rule, std::size_t r) {
  return work(Ruled{left(r), left(r), rule.start({kRows, r})},
              [rule](Ruled& s) { rule(s.g, s.moments, s.w); });
}

struct Adapted {
  std::unique_ptr<Matrix> w = std::make_unique<Matrix>(weight());
  Gradient g = factored();
};

Work projection(const char* spec) {
  struct State : Adapted {
    std::unique_ptr<Projector> projector;
  };
  State s;
  s.projector = make_projector(parse_spec(spec), Site{"w", *s.w, 1});
  return work(std::move(s), [](State& at) { at.projector->project(at.g, *at.w); });
}

Work retraction(const char* spec) {
  struct State : Adapted {
    std::unique_ptr<Projector> projector;
    Factors change;
  };
  State s;
  s.projector = make_projector(parse_spec(spec), Site{"w", *s.w, 1});
  for (const Matrix& factor : s.projector->project(s.g, *s.w)) {
    s.change.push_back(normal(shape_of(factor), 1e-3, {1, Purpose::test, "change"}));
  }
  return work(std::move(s), [](State& at) {
    at.projector->retract(
        {.gradient = at.g, .projected = at.change, .direction = at.change, .lr = 1e-3}, at.w.get());
  });
}

Work step(const char* projector, const char* rule, Gradient g) {
  struct State : Adapted {
    std::unique_ptr<Optimizer> optimizer;
  };
  State s;
  s.g = std::move(g);
  s.optimizer = std::make_unique<Optimizer>(
      Optimizer::Settings{.spec = make_optimizer_spec(parse_spec(rule)), .lr = 1e-3, .seed = 1});
  s.optimizer->add("w", *s.w, make_projector(parse_spec(projector), Site{"w", *s.w, 1}));
  return work(std::move(s), [](State& at) {
    at.optimizer->collect("w", at.g);
    at.optimizer->step();
  });
}

std::vector<Workload> workloads() {
  return {
      {"sides_dense_r1", [] { return sides_of(dense(), 1); }},
      {"sides_dense_r8", [] { return sides_of(dense(), 8); }},
      {"sides_factored_r1", [] { return sides_of(factored(), 1); }},
      {"sides_factored_r8", [] { return sides_of(factored(), 8); }},
      {"add_products_r1", [] { return products(1); }},
      {"add_products_r8", [] { return products(8); }},
      {"folded_dense_r1", [] { return folded_of(dense(), 1); }},
      {"folded_dense_r4", [] { return folded_of(dense(), 4); }},
      {"folded_factored_r1", [] { return folded_of(factored(), 1); }},
      {"folded_factored_r4", [] { return folded_of(factored(), 4); }},
      {"add_unfolded_r1", [] { return unfolded(1); }},
      {"add_unfolded_r4", [] { return unfolded(4); }},
      {"adam_move", [] { return move(Adam()); }},
      {"adam_factor_r8", [] { return direction(Adam(), 8); }},
      {"sgd_move", [] { return move(Sgd()); }},
      {"sgd_momentum_move", [] { return move(Sgd{.momentum = 0.9}); }},
      {"normal_frame_r8", [] { return work(0, [](int) { right(8); }); }},
      {"loha_project_r4", [] { return projection("loha:rank=4"); }},
      {"loha_retract_r4", [] { return retraction("loha:rank=4"); }},
      {"step_full_sgd", [] { return step("full", "sgd", dense()); }},
      {"step_full_adam", [] { return step("full", "adam", dense()); }},
      {"step_lora8_adam", [] { return step("lora:rank=8", "adam", factored()); }},
      {"step_random1_sgd", [] { return step("random:rank=1", "sgd", factored()); }},
      {"step_additive_sgd", [] { return step("additive", "sgd", factored()); }},
  };
}

void count(const Workload& workload) {
  const Work run = workload.make();
  run();
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  run();
  CALLGRIND_STOP_INSTRUMENTATION;
  CALLGRIND_DUMP_STATS_AT(workload.name.c_str());
}

}  // namespace
}  // namespace gradview

int main(int argc, char** argv) {
  using namespace gradview;
  const std::vector<std::string> wanted(argv + 1, argv + argc);
#ifdef __clang__
  const char* const compiler = "clang " __clang_version__;
#else
  const char* const compiler = "GCC " __VERSION__;
#endif
  if (wanted == std::vector<std::string>{"--compiler"}) {
    std::cout << compiler << "\n";
    return 0;
  }
  std::size_t found = 0;
  for (const Workload& workload : workloads()) {
    if (!wanted.empty() && std::ranges::find(wanted, workload.name) == wanted.end()) continue;
    count(workload);
    ++found;
  }
  if (!wanted.empty() && found != wanted.size()) {
    std::cerr << "instructions: a name is unknown; there are";
    for (const Workload& workload : workloads()) std::cerr << " " << workload.name;
    std::cerr << "\n";
    return 2;
  }
}
