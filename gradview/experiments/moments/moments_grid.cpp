#include "gradview/experiments/moments/moments_grid.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "gradview/core/text.hpp"

namespace gradview {
namespace {

struct Contrast {
  const Point *a, *b;
  Interval difference;  // of log₁₀ losses, a − b, paired by seed
  double p;
};

std::string name(const Point& point) {
  return point.cell.moments == "factors" ? point.cell.transport : point.cell.moments;
}

Contrast contrast(const Point& a, const Point& b) {
  const std::vector<double> x = a.logs(), y = b.logs();
  std::vector<double> differences;
  for (std::size_t i = 0; i < x.size(); ++i) differences.push_back(x[i] - y[i]);
  return {&a, &b, t_interval(differences), t_test(differences)};
}

// below: every a has a lower loss than its b. tie: all within the margin. differ: some are not.
enum class Kind { below, tie, differ };

struct Question {
  std::string text;
  Kind kind;
  std::vector<Contrast> contrasts;
};

bool within(const Contrast& c, double margin) {
  return verdict(c.difference, c.p, std::log10(margin)) == "equivalent";
}

std::string judged(Kind kind, const std::vector<Contrast>& contrasts, double margin) {
  const auto clear = [&](const Contrast& c) { return c.p < 0.05 && !within(c, margin); };
  const auto all = [&](const auto& holds) {
    return std::all_of(contrasts.begin(), contrasts.end(), holds);
  };
  const auto any = [&](const auto& holds) {
    return std::any_of(contrasts.begin(), contrasts.end(), holds);
  };
  const bool ties = all([&](const Contrast& c) { return within(c, margin); });
  const bool differs = any(clear);
  if (kind == Kind::tie) return ties ? "holds" : differs ? "does not" : "undecided";
  if (kind == Kind::differ) return differs ? "holds" : ties ? "does not" : "undecided";
  if (all([&](const Contrast& c) { return clear(c) && c.difference.mean < 0; })) return "holds";
  const auto fails = [&](const Contrast& c) {
    return (clear(c) && c.difference.mean > 0) || within(c, margin);
  };
  return any(fails) ? "does not" : "undecided";
}

std::string evidence(const std::vector<Contrast>& contrasts) {
  std::vector<std::string> parts;
  for (const Contrast& c : contrasts) {
    const std::string a = name(*c.a), b = name(*c.b);
    parts.push_back(fmt::format("{} / {} = {:.3g} ({:.3g}, {:.3g})",
                                a == b ? c.a->frames + " " + a : a,
                                a == b ? c.b->frames + " " + b : b, std::pow(10, c.difference.mean),
                                std::pow(10, c.difference.low), std::pow(10, c.difference.high)));
  }
  return join(parts, "; ");
}

class Questions {
 public:
  Questions(const std::vector<Point>& points, const Grid& grid) : points_(points) {
    const auto [least, most] = std::minmax_element(grid.intervals.begin(), grid.intervals.end());
    for (const std::size_t rank : grid.ranks) {
      if (*least == 1) per_step(rank);
      ask(Kind::differ, "gaussian", rank, *least, "what becomes of moments on the factors matters",
          {{"keep", "rotate"}, {"keep", "reset"}, {"rotate", "reset"}});
      if (*most == *least) continue;
      ask(Kind::tie, "gaussian", rank, *most,
          "what becomes of moments on the factors stops mattering",
          {{"keep", "rotate"}, {"keep", "reset"}, {"rotate", "reset"}});
      ask(Kind::below, "gaussian", rank, *most,
          "moments on the weight are worse than moments on the factors",
          {{"keep", "weight"}, {"rotate", "weight"}, {"reset", "weight"}});
    }
    for (const std::size_t rank : grid.ranks) {
      haar(rank, *least);
      for (const std::size_t every : grid.intervals) {
        ask(Kind::differ, "galore", rank, every, "what becomes of moments on the factors matters",
            {{"keep", "rotate"}, {"keep", "reset"}, {"rotate", "reset"}});
      }
    }
  }
  std::vector<Question> take() { return std::move(questions_); }

 private:
  using Pairs = std::vector<std::pair<std::string, std::string>>;

  void per_step(std::size_t rank) {
    ask(Kind::below, "gaussian", rank, 1, "moments on the weight beat every other place",
        {{"weight", "lifted"},
         {"weight", "none"},
         {"weight", "reset"},
         {"weight", "rotate"},
         {"weight", "keep"}});
    ask(Kind::below, "gaussian", rank, 1, "no first moment beats averages in old coordinates",
        {{"none", "keep"}, {"none", "rotate"}, {"none", "reset"}});
    ask(Kind::below, "gaussian", rank, 1, "keep is the worst of all that do not diverge",
        {{"lifted", "keep"},
         {"none", "keep"},
         {"reset", "keep"},
         {"rotate", "keep"},
         {"sgd", "keep"}});
    ask(Kind::tie, "gaussian", rank, 1, "Adam without a first moment is no better than SGD",
        {{"none", "sgd"}});
  }
  void haar(std::size_t rank, std::size_t every) {
    Question q{fmt::format("rank {}, every {}: Haar frames beat Gaussian ones in every place", rank,
                           every),
               Kind::below,
               {}};
    for (const char* cell : {"weight", "none", "sgd"}) {
      const Point *a = find("haar", rank, every, cell), *b = find("gaussian", rank, every, cell);
      if (a && b) q.contrasts.push_back(contrast(*a, *b));
    }
    if (!q.contrasts.empty()) questions_.push_back(std::move(q));
  }
  void ask(Kind kind, const std::string& frames, std::size_t rank, std::size_t every,
           const std::string& text, const Pairs& pairs) {
    Question q{
        fmt::format("{} frames, rank {}, every {}: {}", frames, rank, every, text), kind, {}};
    for (const auto& [first, second] : pairs) {
      const Point *a = find(frames, rank, every, first), *b = find(frames, rank, every, second);
      if (a && b) q.contrasts.push_back(contrast(*a, *b));
    }
    if (!q.contrasts.empty()) questions_.push_back(std::move(q));
  }
  const Point* find(const std::string& frames, std::size_t rank, std::size_t every,
                    const std::string& cell) const {
    for (const Point& p : points_) {
      if (p.frames == frames && p.rank == rank && p.every == every && name(p) == cell && p.result)
        return &p;
    }
    return nullptr;
  }

  const std::vector<Point>& points_;
  std::vector<Question> questions_;
};

// rank, interval, then the cells in the order of moment_cells(); 0: diverged.
struct Earlier {
  std::size_t rank, every;
  double losses[8];
};
constexpr Earlier kEarlier[] = {{1, 1, {.0131, .0758, .0841, .0767, .1185, .1284, .442, 0}},
                                {4, 1, {.0074, .0237, .0257, .0261, .0347, .0321, .102, 0}},
                                {4, 20, {.047, .050, .043, .046, .049, .049, .054, .167}},
                                {4, 200, {17.7, 9.2, 8.2, 12.6, 8.0, 7.4, 7.9, 7.9}}};

}  // namespace

const std::vector<Cell>& moment_cells() {
  static const std::vector<Cell> all{
      {"weight", "", "adam:moments=weight"},
      {"sgd", "", "sgd"},
      {"none", "keep", "adam:moments=none,transport=keep"},
      {"lifted", "", "adam:moments=lifted"},
      {"factors", "reset", "adam:moments=factors,transport=reset"},
      {"factors", "rotate", "adam:moments=factors,transport=rotate"},
      {"factors", "keep", "adam:moments=factors,transport=keep"},
      {"factors", "project", "adam:moments=factors,transport=project"}};
  return all;
}

std::vector<double> Point::logs() const {
  return over_seeds(*result, [](const Run& run) {
    const Row* last = run.last("test");
    return last && last->loss && std::isfinite(*last->loss)
               ? std::log10(*last->loss)
               : std::numeric_limits<double>::infinity();
  });
}

Interval Point::loss() const {
  const Interval log = t_interval(logs());
  return {std::pow(10, log.mean), std::pow(10, log.low), std::pow(10, log.high)};
}

double Point::accuracy() const {
  return t_interval(over_seeds(*result,
                               [](const Run& run) {
                                 const Row* last = run.last("test");
                                 return last ? last->accuracy.value_or(std::nan("")) : std::nan("");
                               }))
      .mean;
}

std::size_t Point::diverged() const {
  return static_cast<std::size_t>(std::count_if(result->runs.begin(), result->runs.end(),
                                                [](const Run* run) { return run->diverged(); }));
}

std::vector<Point> points(const Grid& grid) {
  std::vector<Point> all{{"full", 0, 0, {"adam", "", "adam"}, {"full", "adam"}},
                         {"full", 0, 0, {"sgd", "", "sgd"}, {"full", "sgd"}}};
  for (const std::string& frames : grid.frames) {
    for (const std::size_t rank : grid.ranks) {
      for (const std::size_t every : grid.intervals) {
        const std::string method =
            frames == "galore"
                ? fmt::format("galore:rank={},refresh_every={}", rank, every)
                : fmt::format("random:rank={},family={},refresh_every={}", rank, frames, every);
        for (const Cell& cell : grid.cells) {
          all.push_back({frames, rank, every, cell, {method, cell.optimizer}});
        }
      }
    }
  }
  return all;
}

std::vector<Claim> judge_moments(const std::vector<Point>& points, const Grid& grid,
                                 double margin) {
  std::vector<Question> questions = Questions(points, grid).take();
  std::vector<double> p_values;
  for (const Question& q : questions) {
    for (const Contrast& c : q.contrasts) p_values.push_back(c.p);
  }
  const std::vector<double> adjusted = holm(p_values);
  std::size_t next = 0;
  std::vector<Claim> claims;
  for (Question& q : questions) {
    for (Contrast& c : q.contrasts) c.p = adjusted[next++];
    claims.push_back({q.text, judged(q.kind, q.contrasts, margin), evidence(q.contrasts)});
  }
  return claims;
}

std::optional<double> earlier_loss(const Point& point) {
  if (point.frames != "gaussian") return std::nullopt;
  for (const Earlier& each : kEarlier) {
    if (each.rank != point.rank || each.every != point.every) continue;
    const auto& cells = moment_cells();
    const auto at = std::find(cells.begin(), cells.end(), point.cell) - cells.begin();
    return each.losses[at] > 0 ? each.losses[at] : std::numeric_limits<double>::infinity();
  }
  return std::nullopt;
}

std::vector<Claim> compare_with_earlier(const std::vector<Point>& points, double margin) {
  std::vector<Claim> claims;
  for (const Earlier& each : kEarlier) {
    std::vector<Contrast> contrasts;  // a was better than b
    for (const Point& a : points) {
      for (const Point& b : points) {
        if (a.rank != each.rank || a.every != each.every || b.rank != a.rank || b.every != a.every)
          continue;
        const auto was_a = earlier_loss(a), was_b = earlier_loss(b);
        if (!was_a || !was_b || !a.result || !b.result || *was_b <= *was_a * margin) continue;
        contrasts.push_back(contrast(a, b));
      }
    }
    if (contrasts.empty()) continue;
    std::vector<double> p_values;
    for (const Contrast& c : contrasts) p_values.push_back(c.p);
    const std::vector<double> adjusted = holm(p_values);
    std::size_t confirmed = 0;
    std::vector<Contrast> reversed;
    for (std::size_t i = 0; i < contrasts.size(); ++i) {
      if (!(adjusted[i] < 0.05)) continue;
      if (contrasts[i].difference.mean < 0) {
        ++confirmed;
      } else {
        reversed.push_back(contrasts[i]);
      }
    }
    const std::size_t open = contrasts.size() - confirmed - reversed.size();
    claims.push_back(
        {fmt::format("rank {}, every {}: the order of an earlier run ({} pairs: {} confirmed, {} "
                     "reversed, {} undecided)",
                     each.rank, each.every, contrasts.size(), confirmed, reversed.size(), open),
         !reversed.empty() ? "does not"
         : open == 0       ? "holds"
                           : "undecided",
         evidence(reversed)});
  }
  return claims;
}

}  // namespace gradview
