// What a recording of single matrices says (tests/golden/adafactor.py and others), repeated: from
// SHAPE.start under the gradients SHAPE.g, CASE.w has the weights before each step and after the
// last.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/io/safetensors.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {

class GoldenSteps {
 public:
  struct Case {
    std::string name, shape, projector, optimizer;
    double lr;
  };

  explicit GoldenSteps(const std::string& file)
      : file_(std::string(GRADVIEW_GOLDEN_DIR) + "/" + file) {
    std::istringstream lines(file_.metadata().at("cases"));
    std::string line;
    while (std::getline(lines, line)) {
      std::istringstream columns(line);
      Case c;
      columns >> c.name >> c.shape >> c.projector >> c.optimizer >> c.lr;
      if (!columns) throw std::runtime_error(file_.path() + ": case '" + line + "'");
      cases_.push_back(c);
    }
  }

  const std::vector<Case>& cases() const { return cases_; }
  Case named(const std::string& name) const {
    for (const Case& c : cases_) {
      if (c.name == name) return c;
    }
    throw std::runtime_error(file_.path() + ": no case '" + name + "'");
  }
  Matrix tensor(const std::string& name) const {
    const Tensor* found = file_.find(name);
    if (!found) throw std::runtime_error(file_.path() + ": no tensor '" + name + "'");
    return file_.matrix(*found);
  }

  // Largest |w − recorded| / max(1, |recorded|) over all steps and entries.
  double deviation(const Case& c) const {
    Matrix w = tensor(c.shape + ".start");
    const Shape shape = shape_of(w);
    const Matrix given = tensor(c.shape + ".g");
    const Matrix recorded = tensor(c.name + ".w");
    const auto key = file_.metadata().find("seed");
    const std::uint64_t seed = key == file_.metadata().end() ? 0 : std::stoull(key->second);
    Optimizer optimizer(
        {.spec = make_optimizer_spec(parse_spec(c.optimizer)), .lr = c.lr, .seed = seed});
    const Site site{.name = "w", .weight = w, .seed = seed};
    optimizer.add("w", w, make_projector(parse_spec(c.projector), site));
    double worst = 0;
    for (std::size_t step = 0; step < recorded.shape()[0]; ++step) {
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double want = recorded(step, i);
        const double off = std::abs(w.data()[i] - want) / std::max(1.0, std::abs(want));
        if (!(off <= worst)) worst = off;
      }
      if (step == given.shape()[0]) break;
      Matrix g = zeros(shape);
      std::copy_n(&given(step, 0), g.size(), g.data());
      optimizer.collect("w", Gradient::dense(std::move(g)));
      optimizer.step();
    }
    return worst;
  }

  // The cases, each within the tolerance; the largest deviation goes to the report of the test.
  void expect_repeated(double tolerance) const {
    double largest = 0;
    for (const Case& c : cases_) {
      const double off = deviation(c);
      EXPECT_LE(off, tolerance) << c.name << ": " << c.projector << " " << c.optimizer;
      largest = std::max(largest, off);
    }
    std::ostringstream text;
    text << largest;
    testing::Test::RecordProperty("deviation", text.str());
  }

 private:
  SafetensorsReader file_;
  std::vector<Case> cases_;
};

}  // namespace gradview
