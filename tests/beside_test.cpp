// An adapter beside the weight of a linear layer: W₀ in 4 bits, and dropout on the adapter's input
// where ΔW is inside W. What the layers compute and every gradient, in double, and what refuses.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/experiments/training.hpp"
#include "gradview/models/architectures.hpp"
#include "gradview/models/classifier.hpp"
#include "gradview/models/language_model.hpp"
#include "gradview/models/linear.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"
#include "numeric_gradient.hpp"

namespace gradview {
namespace {

Matrix gaussian(Shape shape, const std::string& key, double deviation = 1) {
  return normal(shape, deviation, Stream(1, Purpose::test, key));
}

Matrix whole(const QuantisedMatrix& w) { return w.rows(0, w.shape().rows); }

// A projector on a weight, moved away from its start, where half of lora's factors are zero.
struct Adapted {
  std::string name;
  std::unique_ptr<Projector> projector;
  Matrix* weight;  // null beside a W₀ in 4 bits

  Adapted(const std::string& spec, Weights& weights, const std::string& weight_name)
      : name(weight_name) {
    const QuantisedMatrix* base = weights.quantised(name);
    weight = base ? nullptr : &weights[name];
    static const Matrix none = zeros({0, 0});
    const Site site{
        .name = name, .weight = base ? none : *weight, .seed = 3, .steps = 10, .quantised = base};
    projector = make_projector(parse_spec(spec), site);
    const Gradient zero(site.shape());
    projector->start(zero, site);
    projector->refresh(zero, site);
    Factors d = projector->factors();
    for (std::size_t k = 0; k < d.size(); ++k) {
      d[k] = gaussian(shape_of(d[k]), name + std::to_string(k), 0.3);
    }
    move(d);
  }
  void move(const Factors& d) {
    static const Gradient none{Shape{}};
    static const Factors no_factors;
    projector->retract({none, no_factors, d, 0}, weight);
  }
  Factors project(const Gradient& g) const {
    static const Matrix none = zeros({0, 0});
    return projector->project(g, weight ? *weight : none);
  }
};

testing::AssertionResult is_factor_gradient(Adapted& at, const Factors& g, const Loss& loss) {
  Factors d = at.projector->factors();
  for (Matrix& factor : d) factor = zeros(shape_of(factor));
  for (std::size_t k = 0; k < d.size(); ++k) {
    double largest = 1;
    for (const double x : g[k]) largest = std::max(largest, std::abs(x));
    for (std::size_t i = 0; i < d[k].size(); ++i) {
      const auto moved_by = [&](double h) {
        d[k].data()[i] = h;
        at.move(d);
        const double value = loss();
        d[k].data()[i] = -h;
        at.move(d);
        d[k].data()[i] = 0;
        return value;
      };
      const auto central = [&](double h) { return (moved_by(h) - moved_by(-h)) / (2 * h); };
      const double numeric = (4 * central(numeric_step / 2) - central(numeric_step)) / 3;
      if (std::abs(g[k].data()[i] - numeric) <= numeric_tolerance * largest) continue;
      return testing::AssertionFailure() << "factor " << k << " entry " << i << " is "
                                         << g[k].data()[i] << ", by differences " << numeric;
    }
  }
  return testing::AssertionSuccess();
}

const std::vector<std::int32_t> ids = {0, 0, 3, 7, 10, 1, 5, 5, 2, 0, 8, 4, 9, 6, 1};
const std::vector<std::uint8_t> mask = {0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1};

void size(Transformer& t) {
  t.vocabulary = 11;
  t.positions = 9;
  t.width = 8;
  t.hidden = 6;
  t.layers = 1;
  t.heads = t.kv_heads = 2;
  t.head_width = 4;
  t.eps = 0.1;
  if (t.rope) t.heads = 3, t.kv_heads = 1;
}

bool of_linear_layer(const WeightSpec& spec, const Transformer& t) {
  const bool table = spec.name == t.modules.words + ".weight" ||
                     spec.name == t.modules.positions + ".weight" ||
                     spec.name == t.modules.types + ".weight" || spec.name == "lm_head.weight";
  return spec.stored != Stored::vector && !table;
}

// The gradients of the factors beside every linear layer, and of what is dense below them.
template <class Model, class Run>
void expect_gradients(const Model& model, const std::string& spec, bool quantised, double dropout,
                      const Run& run) {
  Weights weights;
  std::vector<std::string> linear;
  for (const WeightSpec& each : model.weights()) {
    Matrix w = gaussian(each.shape, each.name, 0.4);
    if (each.name.find("orm.weight") != each.name.npos || each.name.find("ln_") != each.name.npos) {
      for (double& x : w) x += 1;
    }
    weights.add(each.name, std::move(w));
    if (of_linear_layer(each, model.trunk)) linear.push_back(each.name);
  }
  std::vector<Adapted> adapted;
  Training training;
  if (dropout > 0) training.dropout = Dropout{.seed = 4, .step = 3};
  for (const std::string& name : linear) {
    if (quantised) weights.quantise(name, FourBit::nf4);
  }
  for (const std::string& name : linear) {
    adapted.emplace_back(spec, weights, name);
    weights.put_beside(name, {adapted.back().projector.get(), dropout});
    training.trained.insert(name);
  }
  const std::string words = model.trunk.modules.words + ".weight";
  training.trained.insert(words);

  std::map<std::string, Factors> projected;
  Matrix below;
  run(weights, training, [&](const std::string& name, const Gradient& g) {
    if (name == words) below = g.materialize();
    for (const Adapted& each : adapted) {
      if (each.name == name) projected[name] = each.project(g);
    }
  });
  Training none = training;
  none.trained.clear();
  const Loss loss = [&] { return run(weights, none, {}).loss; };
  for (Adapted& each : adapted) {
    EXPECT_TRUE(is_factor_gradient(each, projected[each.name], loss)) << spec << " " << each.name;
  }
  EXPECT_TRUE(is_gradient(below, weights[words], loss)) << spec;
}

struct How {
  const char* spec;
  bool quantised;
  double dropout;
};

std::ostream& operator<<(std::ostream& out, const How& how) {
  return out << how.spec << (how.quantised ? " nf4" : " merged") << " p=" << how.dropout;
}

class BesideGradients : public testing::TestWithParam<How> {};

TEST_P(BesideGradients, OfBertAreThoseOfTheLoss) {
  const How how = GetParam();
  for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
    Classifier model{bert(), 3};
    size(model.trunk);
    model.pooling = pooling;
    const std::vector<std::int32_t> types = {0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1};
    const std::vector<std::int32_t> labels = {2, 0, 1};
    const Tokens tokens = pack(ids, mask, 5, pooling == Pooling::cls, types);
    expect_gradients(model, how.spec, how.quantised, how.dropout,
                     [&](const Weights& w, const Training& training, const Collect& collect) {
                       return model.loss_and_gradients(w, tokens, labels, training, collect);
                     });
  }
}

TEST_P(BesideGradients, OfGpt2AndLlamaAreThoseOfTheLoss) {
  const How how = GetParam();
  for (const bool rotary : {false, true}) {
    LanguageModel model{rotary ? llama() : gpt2(), !rotary};
    size(model.trunk);
    const Tokens tokens = pack(ids, mask, 5);
    const std::vector<std::int32_t> labels = next_ids(tokens);
    expect_gradients(model, how.spec, how.quantised, how.dropout,
                     [&](const Weights& w, const Training& training, const Collect& collect) {
                       return model.loss_and_gradients(w, tokens, labels, training, collect);
                     });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Beside, BesideGradients,
    testing::Values(How{"lora:rank=2,alpha=3", true, 0}, How{"lora:rank=2,alpha=3", true, 0.3},
                    How{"lora:rank=2,alpha=3", false, 0.3}, How{"dora:rank=2,alpha=3", true, 0},
                    How{"dora:rank=2,alpha=3", true, 0.3}, How{"dora:rank=2,alpha=3", false, 0.3},
                    How{"adalora:rank=3,alpha=2", true, 0.3}, How{"vera:rank=4", true, 0},
                    How{"lora:rank=2,alpha=3,init=symmetric", false, 0.3}));

// Merged with the correction and beside W₀ are one function: the same y, ∂L/∂x and G, and PEFT's,
// y = x W₀ᵀ + s (x̃ vᵀ) uᵀ with x̃ masked as DropoutMask does, to rounding: 1e-13 of numbers of 10.
TEST(Beside, MergedAndApartAreOneLayer) {
  const Linear linear{"layer", {37, 70}};
  const Matrix w0 = gaussian({37, 70}, "w"), b = gaussian({1, 37}, "b");
  const Matrix x = gaussian({9, 70}, "x"), delta = gaussian({9, 37}, "d");
  const Dropout step{.seed = 7, .step = 2};
  for (const std::string spec : {"lora:rank=3,alpha=5", "dora:rank=3,alpha=5"}) {
    for (const double p : {0.0, 0.4}) {
      Weights apart{{"layer.weight", w0}, {"layer.bias", b}};
      apart.quantise("layer.weight", FourBit::nf4);
      const Matrix base = whole(*apart.quantised("layer.weight"));
      Weights merged{{"layer.weight", base}, {"layer.bias", b}};
      Adapted one(spec, apart, "layer.weight"), two(spec, merged, "layer.weight");
      apart.put_beside("layer.weight", {one.projector.get(), p});
      merged.put_beside("layer.weight", {two.projector.get(), p});
      const auto outputs = [&](const Weights& weights) {
        const Seen seen{.dropout = &step, .first = 5};
        const Names trained{"layer.weight"};
        Matrix g;
        const Collect collect = [&](const std::string&, const Gradient& all) {
          g = all.materialize();
        };
        const Backward with{weights, trained, collect, Compute::real, &step};
        Lazy input(share(x));
        linear.collect(with, share(delta), input, 5);
        Matrix added = x;
        linear.add_input_gradient(with, delta, 5, added);
        axpy(added, -1, x);
        return std::vector<Matrix>{linear.forward(weights, x, seen),
                                   linear.input_gradient(with, delta, 5), added, g};
      };
      const auto ours = outputs(apart), theirs = outputs(merged);
      for (std::size_t k = 0; k < ours.size(); ++k) {
        const Matrix off = difference(ours[k], theirs[k]);
        EXPECT_LE(std::sqrt(squared_norm(off) / static_cast<double>(off.size())), 1e-13)
            << spec << " p=" << p << " output " << k;
      }
      if (!spec.starts_with("lora")) continue;
      Matrix dropped = x;
      DropoutMask(&step, p, "layer.adapter", 70).apply(dropped, 5);
      const LowRank uv = one.projector->product().value();
      Matrix y = linear_forward(x, base, b);
      add_matmul_nt(y, uv.s, matmul_nt(dropped, uv.v), uv.u);
      EXPECT_LE(std::sqrt(squared_norm(difference(y, ours[0])) / 333), 1e-13);
      EXPECT_LE(std::sqrt(squared_norm(difference(matmul_tn(delta, dropped), ours[3])) / 2590),
                1e-13);
    }
  }
}

TEST(Beside, EvaluationDropsNothing) {
  Weights weights{{"layer.weight", gaussian({6, 9}, "w")}, {"layer.bias", zeros({1, 6})}};
  Adapted adapted("lora:rank=2", weights, "layer.weight");
  const Linear linear{"layer", {6, 9}};
  const Matrix x = gaussian({4, 9}, "x"), y = linear.forward(weights, x, {});
  weights.put_beside("layer.weight", {adapted.projector.get(), 0.5});
  EXPECT_EQ(linear.forward(weights, x, {}), y);
}

// Steps of Adam on ½‖x Wᵀ − y‖²: beside W₀ in 4 bits as inside a W that starts as the same matrix.
struct Fit {
  std::vector<double> losses;
  Matrix weight;  // at the end
};

Fit fit(const std::string& spec, bool quantised, const std::string& optimizer) {
  const Linear linear{"layer", {12, 20}, false};
  Weights weights{{"layer.weight", gaussian({12, 20}, "w", 0.3)}};
  weights.quantise("layer.weight", FourBit::nf4);
  const Matrix base = whole(*weights.quantised("layer.weight"));
  if (!quantised) weights = Weights{{"layer.weight", base}};
  const Matrix x = gaussian({30, 20}, "x"), y = gaussian({30, 12}, "y");
  Optimizer steps({.spec = make_optimizer_spec(parse_spec(optimizer)),
                   .lr = 0.01,
                   .steps = 6,
                   .seed = 5,
                   .clip = 3});
  const std::string name = "layer.weight";
  if (const QuantisedMatrix* q = weights.quantised(name)) {
    steps.add(name, *q, make_projector(parse_spec(spec), steps.new_site(name, *q)));
  } else {
    Matrix& w = weights[name];
    steps.add(name, w, make_projector(parse_spec(spec), steps.new_site(name, w)));
  }
  weights.put_beside(name, {&steps.projector(name), 0});
  Fit out;
  for (int step = 0; step < 6; ++step) {
    Matrix delta = difference(linear.forward(weights, x, {}), y);
    out.losses.push_back(squared_norm(delta) / 2);
    if (step % 2 == 1) steps.observe();
    steps.collect(name, Gradient::outer(share(std::move(delta)), share(x)));
    steps.step();
    if (step % 2 == 1) {
      out.losses.push_back(steps.observation().update_norm());
      out.losses.push_back(steps.observation().cosine());
    }
  }
  out.weight = transpose(linear.forward(weights, identity(20), {}));
  return out;
}

bool stays_beside(const std::string& spec) {
  try {
    fit(spec, true, "adam");
    return true;
  } catch (const std::invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find("kept in 4 bits"), std::string::npos) << e.what();
    return false;
  }
}

TEST(Beside, EveryMethodWithAProductLearnsAsItDoesInsideW) {
  std::vector<std::string> work;
  for (const Method& method : projectors()) {
    bool any = false;
    for (std::string spec : method.law_specs) {
      if (!stays_beside(spec)) continue;
      any = true;
      const Fit beside = fit(spec, true, "adamw:weight_decay=0.1"),
                inside = fit(spec, false, "adamw:weight_decay=0.1");
      ASSERT_EQ(beside.losses.size(), inside.losses.size());
      for (std::size_t i = 0; i < beside.losses.size(); ++i) {  // Adam divides by √(ĝ²) near 0
        EXPECT_NEAR(beside.losses[i], inside.losses[i], 1e-8 * std::abs(inside.losses[i]))
            << spec << " " << i;
      }
      EXPECT_LE(squared_norm(difference(beside.weight, inside.weight)),
                1e-16 * squared_norm(inside.weight))
          << spec;
    }
    if (any) work.push_back(method.name);
  }
  for (const char* name : {"lora", "dora", "adalora", "vera", "lora_fa", "loha"}) {
    EXPECT_NE(std::find(work.begin(), work.end(), name), work.end()) << name;
  }
  for (const char* name : {"full", "random", "additive", "galore", "apollo", "relora", "lokr"}) {
    EXPECT_EQ(std::find(work.begin(), work.end(), name), work.end()) << name;
  }
}

TEST(Beside, RefusesWhatNeedsAllOfW) {
  EXPECT_FALSE(stays_beside("lora:rank=2,init=pissa"));
  EXPECT_TRUE(stays_beside("lora:rank=2,init=pissa,pissa_niter=3"));
  EXPECT_TRUE(stays_beside("lora:rank=2,init=olora"));
  EXPECT_TRUE(stays_beside("lora:rank=2,init=lora_ga"));
  EXPECT_FALSE(stays_beside("lora:rank=2,init=lora_ga,scale=weightS"));
  for (const char* optimizer : {"adam:moments=weight", "adamw:weight_decay=0.1,decay_on=weight"}) {
    EXPECT_THROW(fit("lora:rank=2", true, optimizer), std::invalid_argument) << optimizer;
  }
  Weights weights{{"w", gaussian({5, 6}, "w")}};
  weights.quantise("w", FourBit::nf4);
  EXPECT_THROW(std::as_const(weights)["w"], std::invalid_argument);
}

TEST(Beside, ACurveSaysWhatIsInFourBits) {
  const Placed one = parse_placed("lora:rank=2@q|v&head%nf4"),
               two = parse_placed("full@h%int4:a:b");
  EXPECT_EQ(one.target + " " + one.also, "q|v head");
  EXPECT_TRUE(one.frozen->type == FourBit::nf4 && one.frozen->target.empty());
  EXPECT_TRUE(two.frozen->type == FourBit::int4 && two.frozen->target == "a:b");
  EXPECT_FALSE(parse_placed("lora@q").frozen);
  EXPECT_THROW(parse_placed("lora%nf5"), std::invalid_argument);

  const Weights start{{"q", gaussian({8, 9}, "q")},
                      {"v", gaussian({8, 9}, "v")},
                      {"b", gaussian({1, 8}, "b")},
                      {"head", gaussian({3, 8}, "h")}};
  const Adaptation adaptation = adaptation_of("lora:rank=2@q&head%nf4:q|v", {});
  Weights weights = started(adaptation, start);
  EXPECT_TRUE(weights.quantised("q") && weights.quantised("v") && !weights.quantised("head"));
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam"))});
  apply(plan(adaptation, weights, {}), weights, 1, optimizer);
  EXPECT_EQ(optimizer.names(), (std::vector<std::string>{"head", "q"}));
  EXPECT_NE(weights.beside("q").projector, nullptr);
  EXPECT_EQ(weights.beside("v").projector, nullptr);
}

}  // namespace
}  // namespace gradview
