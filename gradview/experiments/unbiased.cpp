#include "gradview/experiments/unbiased.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/plots.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/optim/optimizer.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

struct Settings {
  std::size_t rows = 12, cols = 10, samples = 20000, seed = 1, jobs = 1;
  bool quiet = false;
};

class Mean {
 public:
  void add(double x) {
    ++count_;
    const double off = x - mean_;
    mean_ += off / count_;
    squares_ += off * (x - mean_);
  }
  double mean() const { return mean_; }
  double error() const { return std::sqrt(squares_ / (count_ - 1) / count_); }

 private:
  double count_ = 0, mean_ = 0, squares_ = 0;
};

struct Finding {
  std::string identity, family, side;
  std::size_t rank, rows, cols;
  double measured, predicted, standard_error;
  // Beside five standard errors, rounding: some of these are sums that hold exactly for every draw.
  bool holds() const {
    return std::abs(measured - predicted) <= 5 * standard_error + 1e-12 * (1 + std::abs(predicted));
  }
};

struct Family {
  const char* name;
  // E‖G bᵀb‖² = (d + small(r))/r ‖G‖² for one side with frames of length d, scaled to E[bᵀb] = I.
  double (*second_moment)(double d, double r);
};

constexpr Family kFamilies[] = {
    {"gaussian", [](double d, double r) { return (d + r + 1) / r; }},
    {"rademacher", [](double d, double r) { return (d + r - 1) / r; }},
    {"haar", [](double d, double r) { return d / r; }},
};

// T(G) of one method on one matrix, as what a step of plain SGD with lr = 1 takes off W.
class Operator {
 public:
  Operator(const std::string& spec, Matrix g, std::uint64_t seed)
      : g_(std::move(g)),
        weight_(zeros(shape_of(g_))),
        optimizer_({.spec = make_optimizer_spec({"sgd", {}}), .lr = 1, .seed = seed}) {
    optimizer_.add("w", weight_, make_projector(parse_spec(spec), Site{"w", weight_, seed}));
  }
  Matrix draw() {
    optimizer_.collect("w", Gradient::dense(g_));
    optimizer_.step();
    Matrix t = weight_;
    scale(t, -1);
    scale(weight_, 0);
    return t;
  }
  const Matrix& gradient() const { return g_; }

 private:
  Matrix g_, weight_;
  Optimizer optimizer_;
};

class Study {
 public:
  explicit Study(const Settings& s) : s_(s) {
    const Shape shape{s.rows, s.cols};
    g_ = normal(shape, 1, Stream(s.seed, Purpose::test, "g"));
    across_ = normal(shape, 1, Stream(s.seed, Purpose::test, "h"));
    axpy(across_, -dot(across_, g_) / squared_norm(g_), g_);  // ⟂ G
  }

  // Frames alone: with G = I, one-sided T(G) is bᵀb (or aᵀa).
  std::vector<Finding> frames(const Family& family, const std::string& side,
                              std::size_t rank) const {
    const std::size_t d = side == "right" ? s_.cols : s_.rows;
    Matrix off = normal({d, d}, 1, Stream(s_.seed, Purpose::test, "off"));
    for (std::size_t i = 0; i < d; ++i) off(i, i) = 0;
    scale(off, 1 / std::sqrt(squared_norm(off)));
    Operator op(spec(family, side, rank), identity(d), s_.seed);
    Mean diagonal, beside;
    for (std::size_t i = 0; i < s_.samples; ++i) {
      const Matrix t = op.draw();
      diagonal.add(dot(t, op.gradient()) / static_cast<double>(d));
      beside.add(dot(t, off));
    }
    const char* name = side == "right" ? "E[bᵀb] = I" : "E[aᵀa] = I";
    return {finding(std::string(name) + ", diagonal", family, side, rank, {d, d}, diagonal, 1),
            finding(std::string(name) + ", beside it", family, side, rank, {d, d}, beside, 0)};
  }

  // Mean, variance, contraction and stability of the unbiased step.
  std::vector<Finding> step(const Family& family, const std::string& side, std::size_t rank) const {
    const auto r = static_cast<double>(rank);
    const double right = family.second_moment(static_cast<double>(s_.cols), r);
    const double left = family.second_moment(static_cast<double>(s_.rows), r);
    // both: ¼(right + left + 2), the last from E⟨G bᵀb, aᵀa G⟩ = ‖G‖²
    const double second = side == "right" ? right : side == "left" ? left : (right + left + 2) / 4;
    Operator op(spec(family, side, rank), g_, s_.seed);
    const double energy = squared_norm(g_);
    const double rate = 1 / second;  // η* of the quadratic ½‖W − W*‖²
    Mean along, across, moment, variance, contraction;
    for (std::size_t i = 0; i < s_.samples; ++i) {
      Matrix t = op.draw();
      along.add(dot(t, g_) / energy);
      across.add(dot(t, across_) / energy);
      moment.add(squared_norm(t) / energy);
      Matrix rest = g_;  // W − W* after a step of length η* from W − W* = G
      axpy(rest, -rate, t);
      contraction.add(squared_norm(rest) / energy);
      axpy(t, -1, g_);
      variance.add(squared_norm(t) / energy);
    }
    Finding stable =
        finding("largest stable step", family, side, rank, shape_of(g_), moment, 2 / second);
    stable.measured = 2 / moment.mean();
    stable.standard_error = 2 * moment.error() / (moment.mean() * moment.mean());
    return {
        finding("E[update] along G", family, side, rank, shape_of(g_), along, 1),
        finding("E[update] across G", family, side, rank, shape_of(g_), across, 0),
        finding("second moment", family, side, rank, shape_of(g_), moment, second),
        finding("variance", family, side, rank, shape_of(g_), variance, second - 1),
        finding("best contraction", family, side, rank, shape_of(g_), contraction, 1 - 1 / second),
        stable};
  }

  // The article's form, both terms as they are: 2rG in the mean.
  std::vector<Finding> raw(const Family& family, std::size_t rank) const {
    Operator op(spec(family, "both", rank) + ",normalise=raw", g_, s_.seed);
    Mean along;
    for (std::size_t i = 0; i < s_.samples; ++i) along.add(dot(op.draw(), g_) / squared_norm(g_));
    return {finding("raw: E[update] along G", family, "both", rank, shape_of(g_), along,
                    2 * static_cast<double>(rank))};
  }

  // The error after five steps at η*: the rate to the fifth power, since no error is special to the
  // frames.
  std::vector<Finding> descent(const Family& family, std::size_t rank) const {
    const auto r = static_cast<double>(rank);
    const double second = (family.second_moment(static_cast<double>(s_.cols), r) +
                           family.second_moment(static_cast<double>(s_.rows), r) + 2) /
                          4;
    Matrix w = g_;
    Optimizer optimizer(
        {.spec = make_optimizer_spec({"sgd", {}}), .lr = 1 / second, .seed = s_.seed});
    optimizer.add("w", w,
                  make_projector(parse_spec(spec(family, "both", rank)), Site{"w", w, s_.seed}));
    Mean left;
    for (std::size_t i = 0; i < s_.samples / 5; ++i) {
      w = g_;
      for (int step = 0; step < 5; ++step) {
        optimizer.collect("w", Gradient::dense(w));
        optimizer.step();
      }
      left.add(squared_norm(w) / squared_norm(g_));
    }
    return {finding("error after 5 steps", family, "both", rank, shape_of(g_), left,
                    std::pow(1 - 1 / second, 5))};
  }

  // LoRA's first step over its random starts: gain s² r/(3n), the same for the zero and the
  // symmetric start.
  std::vector<Finding> first_step(const std::string& init, std::size_t rank) const {
    const double alpha = 2 * static_cast<double>(rank) + 1;
    const std::string text = fmt::format("lora:rank={},alpha={},init={}", rank, exact(alpha), init);
    Mean gain;
    for (std::size_t i = 0; i < s_.samples / 5; ++i) {
      const auto projector = make_projector(parse_spec(text), Site{"w", g_, s_.seed + i});
      double squares = 0;
      for (const Matrix& factor : projector->project(Gradient::dense(g_), g_))
        squares += squared_norm(factor);
      gain.add(squares / squared_norm(g_));
    }
    const double scale = alpha / static_cast<double>(rank);
    return {
        finding("lora's first gain, init=" + init, {"–", nullptr}, "both", rank, shape_of(g_), gain,
                scale * scale * static_cast<double>(rank) / (3 * static_cast<double>(s_.cols)))};
  }

 private:
  static std::string spec(const Family& family, const std::string& side, std::size_t rank) {
    return fmt::format("random:rank={},family={},sides={}", rank, family.name, side);
  }
  static Finding finding(std::string identity, const Family& family, std::string side,
                         std::size_t rank, Shape shape, const Mean& mean, double predicted) {
    return {std::move(identity), family.name, std::move(side), rank,        shape.rows,
            shape.cols,          mean.mean(), predicted,       mean.error()};
  }

  Settings s_;
  Matrix g_, across_;
};

std::vector<Finding> measure(const Settings& s) {
  const Study study(s);
  std::vector<std::function<std::vector<Finding>()>> parts;
  const std::size_t most = std::min(s.rows, s.cols);
  for (const Family& family : kFamilies) {
    for (std::size_t rank = 1; rank <= std::min<std::size_t>(most, 8); rank *= 2) {
      for (const char* side : {"left", "right"}) {
        parts.push_back([&study, &family, side, rank] { return study.frames(family, side, rank); });
        parts.push_back([&study, &family, side, rank] { return study.step(family, side, rank); });
      }
      parts.push_back([&study, &family, rank] { return study.step(family, "both", rank); });
      parts.push_back([&study, &family, rank] { return study.raw(family, rank); });
      parts.push_back([&study, &family, rank] { return study.descent(family, rank); });
    }
  }
  for (const char* init : {"zero", "symmetric"}) {
    parts.push_back(
        [&study, init, most] { return study.first_step(init, std::min<std::size_t>(4, most)); });
  }
  std::vector<std::vector<Finding>> found(parts.size());
  run_jobs(parts.size(), s.jobs, [&](std::size_t i) {
    throw_if_stop_requested();
    found[i] = parts[i]();
  });
  std::vector<Finding> all;
  for (auto& part : found) all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::string table_csv(const std::vector<Finding>& findings) {
  std::string text = csv_line({"identity", "family", "side", "rank", "rows", "cols", "measured",
                               "predicted", "standard_error", "verdict"});
  for (const Finding& f : findings) {
    text += csv_line({f.identity, f.family, f.side, std::to_string(f.rank), std::to_string(f.rows),
                      std::to_string(f.cols), exact(f.measured), exact(f.predicted),
                      exact(f.standard_error), f.holds() ? "ok" : "OFF"});
  }
  return text;
}

int run(int argc, const char* const* argv) {
  Settings s;
  FolderFlags folder_flags;
  Flags flags("unbiased",
              "random frames against their closed forms: mean, variance, contraction, stability");
  flags.count("rows", s.rows, {.least = 2, .most = 1000}, "m of the matrix");
  flags.count("cols", s.cols, {.least = 2, .most = 1000}, "n of the matrix");
  flags.count("samples", s.samples, {.least = 100, .most = 1e9}, "draws behind each row");
  flags.count("seed", s.seed, {}, "of all that is drawn");
  s.jobs = cores();
  flags.count("jobs", s.jobs, {.least = 1, .most = 1024}, "rows measured at the same time");
  flags.flag("quiet", s.quiet, "no word on stderr");
  folder_flags.declare(flags);
  flags.parse(argc, argv);
  if (folder_flags.resume)
    throw std::invalid_argument("--resume: unbiased takes seconds and has nothing to resume");

  RunFolder folder("unbiased", folder_flags);
  folder.begin(flags.resolved(), machine_metadata("unbiased"));
  const std::vector<Finding> findings = measure(s);
  folder.append_rows("table.csv", table_csv(findings));
  std::size_t off = 0;
  fmt::print("{:<32}{:<12}{:<7}{:>4}{:>13}{:>13}{:>12}  verdict\n", "identity", "family", "side",
             "rank", "measured", "predicted", "std error");
  for (const Finding& f : findings) {
    off += !f.holds();
    // fmt pads by code points
    fmt::print("{:<32}{:<12}{:<7}{:>4}{:>13.6f}{:>13.6f}{:>12.1e}  {}\n", f.identity, f.family,
               f.side, f.rank, f.measured, f.predicted, f.standard_error, f.holds() ? "ok" : "OFF");
  }
  fmt::print("{} identities, {} off by more than five standard errors\n", findings.size(), off);
  const std::string no_picture = draw_plots(folder.path());
  if (!no_picture.empty() && !s.quiet) fmt::print(stderr, "note: {}\n", no_picture);
  const nlohmann::ordered_json summary{
      {"status", "complete"}, {"identities", findings.size()}, {"off", off}};
  folder.write("summary.json", summary.dump(2) + "\n");
  if (!s.quiet) fmt::print(stderr, "run folder: {}\n", folder.path());
  if (off > 0) {
    throw CheckFailed(fmt::format("{} of {} identities are off by more than five standard errors",
                                  off, findings.size()));
  }
  return 0;
}

}  // namespace

int unbiased_main(int argc, const char* const* argv) {
  return run_program("unbiased", [&] { return run(argc, argv); });
}

}  // namespace gradview
