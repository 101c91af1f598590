// Specs, their options, the optimisers and schedules made of them, and the registry.
#include "gradview/core/spec.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <numbers>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/text.hpp"
#include "gradview/optim/optimizer_spec.hpp"
#include "gradview/optim/schedule.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

// RapidCheck draws the same cases every time, unless RC_PARAMS says otherwise.
[[maybe_unused]] const int kSeeded = setenv("RC_PARAMS", "seed=2023", 0);

// What `call` throws as std::invalid_argument says; "" where it throws nothing.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

struct Refused {
  std::string spec;
  std::vector<std::string> said;  // all of these
};

template <class Call>
void expect_refused(const std::vector<Refused>& cases, const Call& call) {
  for (const Refused& each : cases) {
    const std::string& spec = each.spec;
    const std::string message = refusal([&] { call(spec); });
    for (const std::string& part : each.said) {
      EXPECT_NE(message.find(part), message.npos) << "'" << spec << "' gives '" << message << "'";
    }
    EXPECT_EQ(message.find('\n'), message.npos) << spec;
  }
}

rc::Gen<std::string> word(const std::string& letters) {
  return rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::elementOf(letters)));
}

RC_GTEST_PROP(Spec, ReadsWhatItWrites, ()) {
  Spec spec{*word("abz_09"), {}};
  std::set<std::string> keys;
  for (int i = *rc::gen::inRange(0, 5); i > 0; --i) {
    const std::string key = *word("abr_");
    if (keys.insert(key).second) spec.options.emplace_back(key, *word("01.e-+=:x "));
  }
  const Spec read = parse_spec(to_string(spec));
  RC_ASSERT(read.name == spec.name);
  RC_ASSERT(read.options == spec.options);
  for (const auto& [key, value] : spec.options) RC_ASSERT(*read.find(key) == value);
  RC_ASSERT(!read.find("never"));
}

RC_GTEST_PROP(Spec, LaterOptionsReplaceEarlierOnes, (const std::string& noise)) {
  const std::string value = "v" + std::to_string(noise.size());
  const Spec spec =
      with_options(parse_spec("lora:rank=4,alpha=8"), {{"rank", value}, {"init", "zero"}});
  RC_ASSERT(to_string(spec) == "lora:rank=" + value + ",alpha=8,init=zero");
}

TEST(Spec, MalformedOnesAreRefused) {
  expect_refused({{"", {"''", "not a spec"}},
                  {":rank=1", {"':rank=1'", "not a spec"}},
                  {"lora:", {"'lora:'", "key=value"}},
                  {"lora:rank", {"'rank'", "key=value"}},
                  {"lora:rank=", {"'rank='"}},
                  {"lora:=4", {"'=4'"}},
                  {"lora:rank=4,", {"lora:rank=4,", "''"}},
                  {"lora:rank=4,rank=5", {"'rank' is given twice"}}},
                 [](const std::string& text) { parse_spec(text); });
}

std::unique_ptr<Projector> make(const std::string& spec, Shape shape) {
  const Matrix w = zeros(shape);
  return make_projector(parse_spec(spec), Site{"w", w, 1});
}

TEST(Options, ProjectorsRefuseWhatTheyDoNotKnow) {
  expect_refused(
      {{"lorra", {"no projector 'lorra'", "full, ", "random", "did you mean 'lora'?"}},
       {"quantum", {"no projector 'quantum'; there are"}},
       {"lora:rnak=4", {"lora has no option 'rnak'", "rank, alpha", "did you mean 'rank'?"}},
       {"full:rank=4", {"full has no option 'rank'; it takes none"}},
       {"lora:rank=0", {"option 'rank' of lora is '0'", "at least 1"}},
       {"lora:rank=-3", {"'-3'", "a whole number at least 1"}},
       {"lora:rank=2.5", {"'2.5'", "a whole number"}},
       {"lora:rank=99999999999999999999", {"a whole number"}},
       {"lora:alpha=0", {"option 'alpha' of lora is '0'", "above 0"}},
       {"lora:alpha=nan", {"'nan'", "a number"}},
       {"lora:alpha=inf", {"'inf'"}},
       {"lora:alpha=1e999", {"'1e999'"}},
       {"lora:alpha=3x", {"'3x'"}},
       {"lora:init=symetric", {"option 'init' of lora is 'symetric'", "did you mean 'symmetric'?"}},
       {"random:family=haarr", {"gaussian, rademacher, haar", "did you mean 'haar'?"}},
       {"random:refresh_every=-1", {"'-1'"}}},
      [](const std::string& text) {
        make(text, {7, 5});
      });
}

TEST(Options, RangesSayWhatTheyHold) {
  struct Case {
    Range range;
    std::string text;
    std::vector<double> in, out;
  };
  const std::vector<Case> cases{
      {{.least = 1}, "at least 1", {1, 1e9}, {0.999, -1}},
      {{.least = 0, .open_below = true}, "above 0", {1e-300}, {0, -1}},
      {{.least = 0, .most = 1, .open_above = true}, "in [0, 1)", {0, 0.999}, {1, -0.1}},
      {{.least = 0, .most = 1}, "in [0, 1]", {0, 1}, {1.001}},
      {{.most = 3}, "at most 3", {3, -1e9}, {3.1}},
      {{.most = 3, .open_above = true}, "below 3", {2.9}, {3}},
      {{}, "finite", {-1e300, 1e300}, {}}};
  for (const Case& c : cases) {
    EXPECT_EQ(to_string(c.range), c.text);
    for (const double x : c.in) EXPECT_TRUE(c.range.contains(x)) << c.text << " " << x;
    for (const double x : c.out) EXPECT_FALSE(c.range.contains(x)) << c.text << " " << x;
    EXPECT_FALSE(c.range.contains(std::numeric_limits<double>::quiet_NaN())) << c.text;
  }
}

RC_GTEST_PROP(Text, ExactNumbersComeBack, (double value)) {
  RC_ASSERT(*parse_number(exact(value)) == value);
  RC_ASSERT(*parse_exact(exact(value)) == value);
}

TEST(Text, NonFiniteNumbersAreReadOnlyWhereTheyAreAsked) {
  for (const char* text : {"nan", "inf", "-inf"}) {
    EXPECT_FALSE(parse_number(text)) << text;
    EXPECT_EQ(exact(*parse_exact(text)), text);
  }
  for (const char* text : {"", " 1", "1 ", "1,5", "0x10", "1e999", "--1", "+1"}) {
    EXPECT_FALSE(parse_number(text)) << text;
  }
}

TEST(Text, NearestIsTheFewestEditsAway) {
  const std::vector<std::string> names{"full", "lora", "lora_fa", "random"};
  EXPECT_EQ(nearest("lroa", names), "lora");
  EXPECT_EQ(nearest("lora-fa", names), "lora_fa");
  EXPECT_EQ(nearest("radnom", names), "random");
  EXPECT_EQ(nearest("xyzzy", names), "");
  EXPECT_EQ(did_you_mean("xyzzyplugh", names), "");
}

// r(m + n) numbers for two factors, with r capped at what the matrix can hold.
RC_GTEST_PROP(Registry, CountsAreThoseOfTheCappedRank, ()) {
  const auto size = [] { return static_cast<std::size_t>(*rc::gen::inRange(1, 12)); };
  const Shape shape{size(), size()};
  const std::size_t rank = size();
  const std::size_t r = std::min({rank, shape.rows, shape.cols});
  const std::map<std::string, std::size_t> expected{{"lora", r * (shape.rows + shape.cols)},
                                                    {"random", r * (shape.rows + shape.cols)},
                                                    {"additive", r * (shape.rows + shape.cols)},
                                                    {"lora_fa", r * shape.rows}};
  for (const auto& [name, numbers] : expected) {
    const std::string spec = name + ":rank=" + std::to_string(rank);
    std::size_t trained = 0;
    for (const Matrix& factor : make(spec, shape)->project(Gradient(shape), zeros(shape))) {
      trained += factor.size();
    }
    RC_ASSERT(trained == numbers);
    RC_ASSERT(count_numbers(parse_spec(spec), shape).trained == numbers);
  }
}

TEST(Registry, CappedRankKeepsTheScaleOfTheRankAskedFor) {
  const auto projector = make("lora:rank=8,alpha=4,init=symmetric", {3, 5});  // s = 4/8, rank 3
  const Factors theta = projector->factors();
  ASSERT_EQ(shape_of(theta[0]), (Shape{3, 3}));
  double product = 0;
  for (std::size_t k = 0; k < 3; ++k) product += theta[0](1, k) * theta[1](k, 4);
  EXPECT_NEAR(projector->entry(theta, {}, 1, 4), 0.5 * product, 1e-15);
}

TEST(Registry, NamesAreUniqueAndEveryMethodIsDescribed) {
  std::set<std::string> names;
  for (const Method& method : projectors()) {
    EXPECT_TRUE(names.insert(method.name).second) << method.name;
    EXPECT_FALSE(method.summary.empty()) << method.name;
    EXPECT_FALSE(method.law_specs.empty()) << method.name;
    for (const std::string& spec : method.law_specs) EXPECT_EQ(parse_spec(spec).name, method.name);
    for (const OptionHelp& option : method.options) {
      EXPECT_FALSE(option.help.empty()) << method.name << " " << option.key;
      EXPECT_FALSE(option.value.empty()) << method.name << " " << option.key;
    }
  }
  EXPECT_EQ(projectors().front().name, "full");
}

TEST(Registry, ATakenNameIsRefused) {
  const std::size_t before = projectors().size();
  EXPECT_THROW(register_projector(find_projector("lora")), std::invalid_argument);
  EXPECT_EQ(projectors().size(), before);
}

OptimizerSpec rule(const std::string& spec) { return make_optimizer_spec(parse_spec(spec)); }

TEST(OptimizerSpec, ContradictionsAndUnknownsAreRefused) {
  expect_refused(
      {{"adm", {"no optimizer 'adm'; there are sgd, adam, adamw, adafactor", "did you mean"}},
       {"sgd:beta1=0.9", {"sgd has no option 'beta1'"}},
       {"adam:weight_decay=0.1", {"adam has no option 'weight_decay'"}},
       {"sgd:nesterov=true", {"nesterov=true needs momentum above 0"}},
       {"sgd:nesterov=yes", {"option 'nesterov' of sgd is 'yes'; there are false, true"}},
       {"sgd:momentum=1", {"option 'momentum' of sgd is '1'", "in [0, 1)"}},
       {"sgd:momentum=0.9,moments=none", {"moments=none and momentum contradict"}},
       {"adam:beta1=0.9,moments=none", {"moments=none and beta1 contradict"}},
       {"adam:beta2=1", {"in [0, 1)"}},
       {"adam:eps=0", {"above 0"}},
       {"adamw:weight_decay=-1", {"at least 0"}},
       {"adamw:decay_on=wieght", {"factors, initial, weight", "did you mean 'weight'?"}},
       {"sgd:transport=rotat", {"did you mean 'rotate'?"}},
       {"sgd:moments=factor", {"did you mean 'factors'?"}}},
      [](const std::string& text) { rule(text); });
}

TEST(OptimizerSpec, OptionsArriveWhereTheyBelong) {
  EXPECT_EQ(rule("sgd:weight_decay=0.25").coupled_decay, 0.25);
  EXPECT_EQ(rule("sgd:weight_decay=0.25").decoupled_decay, 0);
  EXPECT_EQ(rule("adamw").decoupled_decay, 0.01);
  EXPECT_EQ(rule("adamw:weight_decay=0.25").coupled_decay, 0);
  EXPECT_EQ(rule("adamw:decay_on=initial").decay_on, DecayOn::initial);
  EXPECT_FALSE(rule("adamw").decay_on_given);
  EXPECT_EQ(rule("adam:moments=weight").moments, MomentsOn::weight);
  EXPECT_EQ(rule("adam:transport=rotate").transport, Transport::rotate);
  EXPECT_EQ(rule("adam:moments=none").rule.start({2, 3}).first.size(), 0u);
  EXPECT_EQ(rule("adam").rule.start({2, 3}).size(), 12u);
  EXPECT_EQ(rule("sgd:nesterov=true,momentum=0.9").rule.start({2, 3}).size(), 6u);
  for (const RuleHelp& help : describe_optimizers()) EXPECT_FALSE(help.summary.empty());
}

// Two steps by hand: the first direction of Adam is the sign, up to eps.
TEST(OptimizerSpec, RulesAreThoseOfTheirFormulas) {
  struct Case {
    std::string spec;
    double first, second;  // directions for the gradients 2, then −1
  };
  const double v2 = 0.001 * (0.999 * 4 + 1) / (1 - 0.999 * 0.999);
  const std::vector<Case> cases{
      {"sgd", 2, -1},
      {"sgd:momentum=0.5", 2, 0},                 // 0.5 · 2 − 1
      {"sgd:momentum=0.5,nesterov=true", 3, -1},  // g + μ b
      {"adam:eps=1e-12", 1, (0.1 * (0.9 * 2 - 1) / (1 - 0.81)) / std::sqrt(v2)},
      {"adam:moments=none,eps=1e-12", 1, -1 / std::sqrt(v2)},
      {"adam:eps=2", 0.5, (0.1 * (0.9 * 2 - 1) / (1 - 0.81)) / (std::sqrt(v2) + 2)}};
  for (const Case& c : cases) {
    const OptimizerSpec spec = rule(c.spec);
    Moments moments = spec.rule.start({1, 1});
    Matrix g = matrix({{2}});
    spec.rule.apply(g, moments, g);
    EXPECT_NEAR(g(0, 0), c.first, 1e-11) << c.spec;  // eps of 1e-12 beside 2, and rounding
    g(0, 0) = -1;
    spec.rule.apply(g, moments, g);
    EXPECT_NEAR(g(0, 0), c.second, 1e-11) << c.spec;
  }
}

TEST(Schedule, HasItsValuesAtTheEndsAndInBetween) {
  struct Case {
    std::string spec;
    std::size_t step;
    double factor;  // of 100 steps
  };
  const std::vector<Case> cases{{"constant", 0, 1},
                                {"constant", 99, 1},
                                {"constant:warmup=4", 0, 0.2},
                                {"constant:warmup=4", 3, 0.8},
                                {"constant:warmup=4", 4, 1},
                                {"linear", 0, 1},
                                {"linear", 50, 0.5},
                                {"linear", 100, 0},
                                {"linear", 150, 0},
                                {"linear:final=0.2", 50, 0.6},
                                {"linear:final=0.2", 100, 0.2},
                                {"linear:warmup=20", 19, 20.0 / 21},
                                {"linear:warmup=20", 20, 1},
                                {"linear:warmup=20", 60, 0.5},
                                {"cosine", 0, 1},
                                {"cosine", 50, 0.5},
                                {"cosine", 100, 0},
                                {"cosine:final=0.2", 100, 0.2},
                                {"cosine:warmup=20,final=0.5", 60, 0.75},
                                {"cosine:warmup=9", 0, 0.1}};
  for (const Case& c : cases) {
    EXPECT_NEAR(make_schedule(c.spec)(c.step, 100), c.factor, 1e-15) << c.spec << " " << c.step;
  }
}

// torch.optim.lr_scheduler.CosineAnnealingLR: η_min + (η_max − η_min)(1 + cos(π t / T_max))/2.
TEST(Schedule, CosineIsThatOfTorch) {
  const Schedule cosine = make_schedule("cosine:final=0.1");
  for (std::size_t t = 0; t <= 300; t += 30) {
    const double angle = std::numbers::pi * static_cast<double>(t) / 300;
    EXPECT_NEAR(cosine(t, 300), 0.1 + 0.9 * (1 + std::cos(angle)) / 2, 1e-15) << t;
  }
}

TEST(Schedule, UnknownsAndContradictionsAreRefused) {
  expect_refused({{"cosin", {"no schedule 'cosin'", "did you mean 'cosine'?"}},
                  {"cosine:warm=3", {"cosine has no option 'warm'", "did you mean 'warmup'?"}},
                  {"cosine:final=1.5", {"in [0, 1]"}},
                  {"linear:warmup=-1", {"'-1'"}},
                  {"constant:final=0.1", {"constant has no option 'final'"}}},
                 [](const std::string& text) { make_schedule(text); });
  EXPECT_THROW(require_schedule_fits("cosine:warmup=100", 100), std::invalid_argument);
  EXPECT_NO_THROW(require_schedule_fits("cosine:warmup=99", 100));
}

}  // namespace
}  // namespace gradview
