#include "gradview/experiments/parameters/parameters.hpp"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <regex>
#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/flags.hpp"
#include "gradview/experiments/driver/help.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/experiments/parameters/architecture.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/io/files.hpp"
#include "gradview/optim/optimizer_spec.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

struct Settings {
  std::vector<std::string> models = known_models();
  std::vector<std::string> projectors{"full", "lora", "random", "galore"};
  std::vector<std::string> ranks{"8"};
  std::string optimizer = "adam", target, csv;
  std::size_t weight_bytes = 2, state_bytes = 4;
  bool matrices = false, article = false;
};

// What the moments of a rule take for one matrix. A rule of rows and columns has no fixed number
// per entry, and needs the shape.
class Keep {
 public:
  explicit Keep(const std::string& optimizer) : spec_(make_optimizer_spec(parse_spec(optimizer))) {
    const auto per_entry = [&](Shape shape) {
      return static_cast<double>(spec_.rule.start(shape).size()) /
             static_cast<double>(shape.size());
    };
    const double one = per_entry({4, 6});
    if (one == per_entry({10, 16})) per_entry_ = one;
  }
  std::size_t on_weight(Shape shape) const {
    if (per_entry_) return numbers(shape.size());
    return shape.rows == 1 ? shape.size() : shape.rows + shape.cols;  // rows and columns
  }
  std::size_t on_factors(std::size_t trained, const std::string& spec) const {
    if (per_entry_) return numbers(trained);
    throw std::invalid_argument("--optimizer: what this rule keeps for the factors of '" + spec +
                                "' depends on their shapes; there are sgd, adam, adamw here, or "
                                "moments=weight");
  }
  bool none() const { return per_entry_ == 0.0; }
  bool weight_by_choice(bool method_says) const {
    return spec_.moments == MomentsOn::weight || spec_.moments == MomentsOn::lifted ||
           (spec_.moments == MomentsOn::automatic && method_says);
  }

 private:
  std::size_t numbers(std::size_t entries) const {
    return static_cast<std::size_t>(std::llround(*per_entry_ * static_cast<double>(entries)));
  }
  OptimizerSpec spec_;
  std::optional<double> per_entry_;
};

// A property of the method and its interval, asked of the smallest matrix that will do.
bool moments_on_weight(const Spec& spec) {
  check_projector(spec);
  Spec small{spec.name, {}};
  const std::string* every = spec.find("refresh_every");
  if (every) small.options.emplace_back("refresh_every", *every);
  const Matrix w = zeros({16, 16});
  return make_projector(small, Site{.name = "w", .weight = w})->moments_on_weight();
}

bool has_rank(const std::string& method) {
  for (const OptionHelp& option : find_projector(method).options) {
    if (option.key == "rank") return true;
  }
  return false;
}

std::optional<std::size_t> rank_of(const Spec& spec) {
  for (const OptionHelp& option : find_projector(spec.name).options) {
    if (option.key != "rank") continue;
    const std::string* given = spec.find("rank");
    return checked_count("option 'rank' of " + spec.name, given ? *given : option.value,
                         {.least = 1});
  }
  return std::nullopt;
}

struct Row {
  std::string model, method, parameter;  // parameter: of one group of matrices; empty for all
  std::size_t matrices = 0, capped = 0;  // adapted ones; those whose rank is below the one asked
  std::size_t numbers = 0;               // of all weights
  std::size_t trained = 0, stored = 0, moments = 0;
  Row& operator+=(const Row& more) {
    matrices += more.matrices;
    capped += more.capped;
    numbers += more.numbers;
    trained += more.trained;
    stored += more.stored;
    moments += more.moments;
    return *this;
  }
};

class Table {
 public:
  explicit Table(const Settings& s) : s_(s), keep_(s.optimizer) {
    if (!s.target.empty()) {
      try {
        target_.emplace(s.target);
      } catch (const std::regex_error&) {
        throw std::invalid_argument("--target '" + s.target + "' is not a regular expression");
      }
    }
  }

  std::vector<Row> rows(const Architecture& model) const {
    std::vector<Row> all;
    bool matched = false;
    for (const std::string& text : specs()) {
      const Spec spec = parse_spec(text);
      const bool on_weight = keep_.weight_by_choice(!keep_.none() && moments_on_weight(spec));
      Row whole{.model = model.name, .method = text, .parameter = {}};
      std::vector<Row> parts;
      for (const WeightGroup& group : model.weights) {
        whole.numbers += group.numbers();
        if (!adapted(group)) continue;
        matched = true;
        Row part = count(spec, text, group, on_weight);
        part.model = model.name;
        Row counted = part;
        counted.numbers = 0;
        whole += counted;
        parts.push_back(std::move(part));
      }
      all.push_back(whole);
      if (s_.matrices) all.insert(all.end(), parts.begin(), parts.end());
    }
    if (!matched) {
      throw std::invalid_argument("--target '" + s_.target + "' matches no matrix of " +
                                  model.name);
    }
    return all;
  }

  bool adapted(const WeightGroup& group) const {
    if (group.vector()) return false;
    return target_ ? std::regex_search(group.name, *target_) : group.in_block;
  }

 private:
  std::vector<std::string> specs() const {
    std::vector<std::string> out;
    for (const std::string& text : s_.projectors) {
      const Spec spec = parse_spec(text);
      if (!has_rank(spec.name) || spec.find("rank")) {
        out.push_back(text);
        continue;
      }
      for (const std::string& rank : s_.ranks) {
        checked_count("--rank", rank, {.least = 1});
        out.push_back(to_string(with_options(spec, {{"rank", rank}})));
      }
    }
    return out;
  }
  Row count(const Spec& spec, const std::string& text, const WeightGroup& group,
            bool on_weight) const {
    Row row{.model = {}, .method = text, .parameter = group.name};
    const Count one = count_numbers(spec, group.shape);
    row.matrices = group.count;
    row.numbers = group.numbers();
    row.trained = one.trained * group.count;
    row.stored = one.stored * group.count;
    if (one.trained > 0) {
      row.moments = group.count * (on_weight ? keep_.on_weight(group.shape)
                                             : keep_.on_factors(one.trained, text));
    }
    const auto rank = rank_of(spec);
    const bool capped = rank && *rank > std::min(group.shape.rows, group.shape.cols);
    if (capped && find_projector(spec.name).caps_rank) row.capped = group.count;
    return row;
  }

  const Settings& s_;
  Keep keep_;
  std::optional<std::regex> target_;
};

std::string amount(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; bytes /= 1000) ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3g} {}", bytes, units[unit]);
}

std::string thousands(std::size_t n) {
  const std::string digits = std::to_string(n);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

void print(const std::vector<Row>& rows, const Settings& s) {
  fmt::print("{:<14}{:<34}{:>16}{:>10}{:>11}{:>11}{:>11}  {}\n", "model", "method", "trained",
             "share", "weights", "gradients", "state", "");
  for (const Row& row : rows) {
    const auto bytes = [&](std::size_t numbers, std::size_t each) {
      return amount(static_cast<double>(numbers) * static_cast<double>(each));
    };
    std::string note = row.parameter.empty() ? "" : row.parameter;
    if (row.matrices > 0 && !row.parameter.empty()) note += fmt::format(" ×{}", row.matrices);
    if (row.capped > 0) {
      note += fmt::format("{}rank capped at min(m, n) in {} of {} matrices",
                          note.empty() ? "" : "; ", row.capped, row.matrices);
    }
    fmt::print("{:<14}{:<34}{:>16}{:>9.4f}%{:>11}{:>11}{:>11}  {}\n", row.model, row.method,
               thousands(row.trained),
               100 * static_cast<double>(row.trained) / static_cast<double>(row.numbers),
               bytes(row.numbers, s.weight_bytes), bytes(row.trained, s.weight_bytes),
               bytes(row.moments + row.stored, s.state_bytes), note);
  }
}

std::string csv(const std::vector<Row>& rows) {
  std::string text = csv_line({"model", "method", "parameter", "matrices", "capped", "numbers",
                               "trained", "stored", "moments"});
  for (const Row& row : rows) {
    text += csv_line({row.model, row.method, row.parameter, std::to_string(row.matrices),
                      std::to_string(row.capped), std::to_string(row.numbers),
                      std::to_string(row.trained), std::to_string(row.stored),
                      std::to_string(row.moments)});
  }
  return text;
}

// The article's share 2r/√d, which takes a model of d numbers for one square matrix, beside the
// count over its matrices.
void print_article(const Settings& s) {
  const Table table(s);
  fmt::print(
      "LoRA's share of a model's numbers in %: 2r/√d takes the model for one square matrix; exact "
      "is Σ r(m + n) over\nthe matrices of its blocks, r capped at min(m, n) of each\n\n");
  fmt::print("{:>7}", "rank");
  std::vector<Architecture> models;
  for (const char* name : {"llama-2-7b", "llama-2-13b", "llama-2-70b", "falcon-180b"}) {
    models.push_back(read_architecture(name));
    fmt::print("{:>24}", name);
  }
  fmt::print("\n{:>7}", "");
  for (std::size_t i = 0; i < models.size(); ++i) fmt::print("{:>14}{:>10}", "2r/√d", "exact");
  fmt::print("\n");
  for (const std::size_t rank : {1, 2, 4, 8, 16, 512, 1024, 8192, 16384}) {
    fmt::print("{:>7}", rank);
    for (const Architecture& model : models) {
      const auto d = static_cast<double>(model.numbers());
      std::size_t trained = 0, adapted = 0;
      bool capped = false;
      for (const WeightGroup& group : model.weights) {
        if (!table.adapted(group)) continue;
        const std::size_t r = std::min({rank, group.shape.rows, group.shape.cols});
        capped = capped || r < rank;
        trained += group.count * r * (group.shape.rows + group.shape.cols);
        adapted += group.numbers();
      }
      fmt::print("{:>14.3f}{:>10}", 200 * static_cast<double>(rank) / std::sqrt(d),
                 fmt::format("{:.3f}{}{}", 100 * static_cast<double>(trained) / d,
                             capped ? "c" : "", trained > adapted ? "!" : ""));
    }
    fmt::print("\n");
  }
  fmt::print(
      "\nc: a rank that some matrix cannot hold (8,192 in a matrix of 4,096²), capped there\n"
      "!: more numbers than the matrices themselves have: r(m + n) > mn from r = mn/(m + n) on, "
      "which is m/2\n   for a square one; the formula has that only at r = √d/2, "
      "where one matrix of d numbers would\n");
}

int run(int argc, const char* const* argv) {
  Settings s;
  Flags flags("parameters", "what methods train and keep on the matrices of a model, counted");
  flags.list("model", s.models, "NAME|config.json", "models; --list-models names them");
  flags.list("projector", s.projectors, "SPEC", "methods; --list names them");
  flags.list("rank", s.ranks, "N", "ranks for the methods whose spec gives none");
  flags.text("optimizer", s.optimizer, "SPEC", "whose moments count as state");
  flags.text("target", s.target, "REGEX",
             "matrices that are adapted, by name (if not given: all of the blocks)");
  flags.count(
      "weight-bytes", s.weight_bytes, {.least = 1, .most = 8},
      "of a weight, and of the gradient of a trained number (where G itself is formed, by full, an "
      "exact SVD or moments on the weight, that is one matrix more at a time)");
  flags.count("state-bytes", s.state_bytes, {.least = 1, .most = 8}, "of a number of state");
  flags.flag("matrices", s.matrices, "a row for every kind of matrix, too");
  flags.flag("article", s.article, "the article's table 2r/√d beside the exact counts");
  flags.text("csv", s.csv, "FILE", "the same rows as a file");
  flags.print("list", "", "name the projectors and end",
              [](const std::string&) { print_projectors(); });
  flags.print("list-models", "", "name the models and end", [](const std::string&) {
    for (const std::string& name : known_models()) {
      fmt::print("{:<16}{:>18} numbers\n", name, thousands(read_architecture(name).numbers()));
    }
  });
  flags.parse(argc, argv);
  if (s.article) {
    print_article(s);
    return 0;
  }
  const Table table(s);
  std::vector<Row> rows;
  for (const std::string& model : s.models) {
    const std::vector<Row> more = table.rows(read_architecture(model));
    rows.insert(rows.end(), more.begin(), more.end());
  }
  if (!s.csv.empty()) write_atomically(s.csv, csv(rows));
  print(rows, s);
  return 0;
}

}  // namespace

int parameters_main(int argc, const char* const* argv) {
  return run_program("parameters", [&] { return run(argc, argv); });
}

}  // namespace gradview
