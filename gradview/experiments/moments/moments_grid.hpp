// The grid of the moments experiment: frames × rank × refresh interval × where the moments live and
// what becomes of them; its results, and what they allow to say.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/statistics.hpp"
#include "gradview/experiments/tuned.hpp"

namespace gradview {

struct Cell {
  std::string moments, transport, optimizer;  // the last one a spec
  bool operator==(const Cell&) const = default;
};
const std::vector<Cell>& moment_cells();

struct Point {
  std::string frames;  // gaussian | haar | galore, or full
  std::size_t rank = 0, every = 0;
  Cell cell;
  Curve curve;
  std::string refused = {};  // the optimizer's words, where it refuses
  // The refresh interval above which transport=project is stable, where that is what happens.
  double threshold = std::numeric_limits<double>::quiet_NaN();
  std::optional<TunedCurve> result = {};

  std::vector<double> logs() const;  // log₁₀ of the final test loss, in order of seed
  Interval loss() const;             // geometric mean over the seeds
  double accuracy() const;           // mean
  std::size_t diverged() const;
};

struct Grid {
  std::vector<std::string> frames;
  std::vector<std::size_t> ranks, intervals;
  std::vector<Cell> cells;
};

// The two references, then every point of the grid.
std::vector<Point> points(const Grid& grid);

struct Claim {
  std::string text;
  std::string verdict;   // holds | does not | undecided
  std::string evidence;  // the contrasts behind it
};

// From paired differences of log-losses with Holm's correction over all that a call looks at.
// Losses within a factor `margin` of each other count as equal.
std::vector<Claim> judge_moments(const std::vector<Point>& points, const Grid& grid, double margin);

// The order of an earlier run of the quadratic (rank 1 and 4, three seeds, no intervals), pair by
// pair: confirmed, reversed, or undecided. Nothing where the grid has none of its points.
std::vector<Claim> compare_with_earlier(const std::vector<Point>& points, double margin);
std::optional<double> earlier_loss(const Point& point);

}  // namespace gradview
