// Moments when the subspace moves: every method that refreshes × where they live × transport ×
// rule, each either sound for thirty steps or refused in one line.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "moments", which));
}

std::vector<std::string> refreshing_specs() {
  std::vector<std::string> specs;
  const Matrix w = zeros({7, 5});
  for (const Method& method : projectors()) {
    for (const std::string& spec : method.law_specs) {
      const auto made = make_projector(parse_spec(spec), {.name = "w", .weight = w});
      if (made->refresh_every() > 0) specs.push_back(spec);
    }
  }
  return specs;
}

bool is_square(std::string_view field) {
  return field.ends_with(".second") || field.ends_with(".row") || field.ends_with(".column");
}

// What is wrong after thirty steps on ½‖W − target‖² with noise; empty: nothing.
std::string fault(const std::string& projector, const std::string& rule, Shape shape) {
  Matrix w = zeros(shape);
  const Matrix target = draw(shape, 100);
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = 0.01, .seed = 1});
  optimizer.add("w", w,
                make_projector(parse_spec(projector), {.name = "w", .weight = w, .seed = 1}));
  for (std::size_t t = 0; t < 30; ++t) {
    Matrix g = difference(w, target);
    axpy(g, 0.3, draw(shape, t));
    optimizer.collect("w", Gradient::dense(std::move(g)));
    optimizer.step();
    std::string wrong = all_finite(w) ? "" : "W is not finite";
    optimizer.fields([&](std::string_view name, Matrix& value, Role) {
      if (!all_finite(value)) wrong = std::string(name) + " is not finite";
      for (std::size_t i = 0; i < value.size() && is_square(name); ++i) {
        if (value.data()[i] < 0) wrong = std::string(name) + " is negative";
      }
    });
    if (!wrong.empty()) return wrong + " after " + std::to_string(t + 1) + " steps";
  }
  return w == zeros(shape) ? "W has not moved" : "";
}

class MovingSubspace : public testing::TestWithParam<std::string> {};

TEST_P(MovingSubspace, TakesEveryTransportOrRefusesItInOneLine) {
  int sound = 0, refused = 0;
  for (const std::string rule : {"sgd:momentum=0.9", "adam:beta1=0.9", "adafactor:beta1=0.9"}) {
    for (const std::string moments : {"auto", "factors", "weight", "lifted", "none"}) {
      for (const std::string transport : {"auto", "keep", "project", "rotate", "reset"}) {
        std::string spec = rule;
        if (moments == "none") spec = rule.substr(0, rule.find(':')) + ":";
        spec += (spec.ends_with(':') ? "" : ",");
        spec += "moments=" + moments + ",transport=" + transport;
        for (const Shape shape : {Shape{7, 5}, Shape{4, 6}, Shape{5, 5}}) {
          try {
            EXPECT_EQ(fault(GetParam(), spec, shape), "") << spec << " " << to_string(shape);
            ++sound;
          } catch (const std::invalid_argument& error) {
            const std::string reason = error.what();
            EXPECT_EQ(reason.find('\n'), std::string::npos) << reason;
            EXPECT_NE(reason.find("diverges"), std::string::npos) << spec << ": " << reason;
            EXPECT_NE(transport, "keep") << reason;
            EXPECT_NE(transport, "reset") << reason;
            EXPECT_NE(moments, "weight") << reason;
            EXPECT_NE(moments, "none") << reason;
            ++refused;
          }
        }
      }
    }
  }
  EXPECT_GT(sound, 4 * refused);
  RecordProperty("sound", sound);
  RecordProperty("refused", refused);
}

INSTANTIATE_TEST_SUITE_P(Registry, MovingSubspace, testing::ValuesIn(refreshing_specs()),
                         [](const auto& test) { return std::to_string(test.index); });

}  // namespace
}  // namespace gradview
