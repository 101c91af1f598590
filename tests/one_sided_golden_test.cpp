// Golden: galore and fira against the authors' own packages, on recorded numbers.
//
// tests/golden/galore_adamw.py and fira_adamw.py gave both sides the same gradients and wrote down
// the weights of every step. What had to be set alike, and where the two differ, is named there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/core/text.hpp"
#include "gradview/io/safetensors.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {
namespace {

// Weights of order one, a dozen steps of some ten products each; Adam divides by the size of what it
// averages, and the SVD by gaps of a few tenths.
constexpr double kTolerance = 1e-12;
// The package takes the SVD in float32: 6e-8 of the gradient, over a gap of some tenths of it, per
// step of lr 0.05, in coordinates that Adam scales to one each.
constexpr double kShipped = 12 * 0.05 * 6e-8 * 100;

struct Case {
  std::string name, shape, gradients, projector, optimizer;
  double lr, decay;
};

class Recording {
 public:
  explicit Recording(const char* path) : file_(path) {
    std::istringstream lines(file_.metadata().at("cases"));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream columns(line);
      Case c;
      columns >> c.name >> c.shape >> c.gradients >> c.projector >> c.optimizer >> c.lr >> c.decay;
      if (!columns) throw std::runtime_error(file_.path() + ": case '" + line + "'");
      cases.push_back(c);
    }
  }
  Matrix operator[](const std::string& name) const {
    const Tensor* tensor = file_.find(name);
    if (!tensor) throw std::runtime_error(file_.path() + ": no tensor '" + name + "'");
    return file_.matrix(*tensor);
  }
  std::vector<Case> cases;

 private:
  SafetensorsReader file_;
};

Matrix reshaped(const Matrix& rows, std::size_t row, Shape shape) {
  Matrix out = zeros(shape);
  std::copy_n(rows.data() + row * shape.size(), shape.size(), out.data());
  return out;
}

// Largest |a − b| / max(1, |b|) over a whole run.
double deviation(const Recording& inputs, const Recording& expected, const Case& c) {
  const Matrix start = inputs[c.shape + ".start"];
  const Matrix given = inputs[c.shape + "." + c.gradients];
  const Matrix want = expected[c.name + ".w"];
  // W ← (1 − ηλ)(W − ηN) there; here W/(1 − ηλ) ← (1 − ηλ) · it − ηN.
  const double kept = 1 - c.lr * c.decay;
  Matrix w = start;
  scale(w, 1 / kept);
  std::string rule = c.optimizer;
  if (c.decay > 0) rule = "adamw" + rule.substr(4) + ",weight_decay=" + exact(c.decay);
  Optimizer optimizer({.spec = make_optimizer_spec(parse_spec(rule)), .lr = c.lr});
  const Site site{.name = "w", .weight = w};
  optimizer.add("w", w, make_projector(parse_spec(c.projector), site));
  double worst = 0;
  for (std::size_t t = 0; t < given.shape()[0]; ++t) {
    optimizer.collect("w", Gradient::dense(reshaped(given, t, shape_of(w))));
    optimizer.step();
    const Matrix row = reshaped(want, t + 1, shape_of(w));
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double off = std::abs(kept * w.data()[i] - row.data()[i]);
      worst = std::max(worst, off / std::max(1.0, std::abs(row.data()[i])));
    }
  }
  return worst;
}

const Recording& galore() {
  static const Recording recording(GRADVIEW_GOLDEN_DIR "/galore_adamw.safetensors");
  return recording;
}

double largest_deviation(const Recording& recording) {
  double largest = 0;
  for (const Case& c : recording.cases) {
    const double off = deviation(galore(), recording, c);
    EXPECT_LE(off, c.name == "shipped" ? kShipped : kTolerance) << c.name;
    if (c.name != "shipped") largest = std::max(largest, off);
  }
  return largest;
}

TEST(GoldenOneSided, GaloreMovesAsTheAuthorsPackageDoes) {
  EXPECT_GE(galore().cases.size(), 17u);
  RecordProperty("deviation", exact(largest_deviation(galore())));
}

TEST(GoldenOneSided, FiraMovesAsTheAuthorsPackageDoes) {
  const Recording fira(GRADVIEW_GOLDEN_DIR "/fira_adamw.safetensors");
  EXPECT_GE(fira.cases.size(), 10u);
  RecordProperty("deviation", exact(largest_deviation(fira)));
}

// What the tolerance is worth: mistakes that a step function, or a reader of the paper, could make.
TEST(GoldenOneSided, SeesOtherConventions) {
  const Recording fira(GRADVIEW_GOLDEN_DIR "/fira_adamw.safetensors");
  const auto with = [](const Recording& recording, const std::string& name, auto change) {
    const auto found = std::find_if(recording.cases.begin(), recording.cases.end(),
                                    [&](const Case& c) { return c.name == name; });
    if (found == recording.cases.end()) throw std::runtime_error("no case '" + name + "'");
    Case c = *found;
    change(c);
    return deviation(galore(), recording, c);
  };
  const double seen = 1000 * kTolerance;
  EXPECT_GT(
      with(galore(), "tall_std",
           [](Case& c) { c.projector += ",projection=subspace,oversampling=0,iterations=0"; }),
      seen);
  EXPECT_GT(with(galore(), "wide_std", [](Case& c) { c.optimizer += ",transport=rotate"; }), seen);
  EXPECT_GT(with(galore(), "tall_std", [](Case& c) { c.optimizer = "adam:eps=1e-6"; }), seen);
  EXPECT_GT(with(fira, "tall_std", [](Case& c) { c.optimizer = "adam:eps=1e-6"; }), seen);
  EXPECT_GT(with(galore(), "tall_decay", [](Case& c) { c.decay *= 0.999; }), seen);
  EXPECT_GT(with(galore(), "tall_left", [](Case& c) { c.gradients = "rounded"; }), seen);
  EXPECT_GT(
      with(fira, "tall_std", [](Case& c) { c.projector.resize(c.projector.find(",residual")); }),
      seen);
  EXPECT_GT(with(fira, "wide_std", [](Case& c) { c.projector += ",growth_limit=1.02"; }), seen);
}

}  // namespace
}  // namespace gradview
