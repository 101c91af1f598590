#include "gradview/experiments/laws_table.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/experiments/driver/flags.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/experiments/driver/program.hpp"
#include "gradview/laws.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

struct Settings {
  std::vector<std::string> projectors;
  bool markdown = false, mutants = false;
  std::size_t jobs = cores();
};

struct Row {
  std::string spec;
  std::vector<Verdict> verdicts;
  std::vector<std::string> survivors;
};

// The methods that a call names, as specs: a bare name stands for all that its laws run with.
std::vector<std::string> specs(const Settings& s) {
  std::vector<std::string> out;
  const auto add_all = [&](const Method& method) {
    out.insert(out.end(), method.law_specs.begin(), method.law_specs.end());
  };
  if (s.projectors.empty()) {
    for (const Method& method : projectors()) add_all(method);
  }
  for (const std::string& text : s.projectors) {
    const Spec spec = parse_spec(text);
    const Method& method = find_projector(spec.name);
    if (spec.options.empty()) {
      add_all(method);
    } else {
      out.push_back(text);
    }
  }
  return out;
}

class Reasons {  // footnotes, each reason once
 public:
  std::size_t number(const std::string& reason) {
    auto found = std::find(all_.begin(), all_.end(), reason);
    if (found == all_.end()) found = all_.insert(all_.end(), reason);
    return static_cast<std::size_t>(found - all_.begin()) + 1;
  }
  const std::vector<std::string>& all() const { return all_; }

 private:
  std::vector<std::string> all_;
};

std::string cell(const Verdict& verdict, Reasons& reasons) {
  if (!verdict.holds) return "BROKEN";
  return verdict.detail.empty() ? "ok" : fmt::format("– {}", reasons.number(verdict.detail));
}

void print(const std::vector<Row>& rows, const Settings& s) {
  Reasons reasons;
  std::size_t width = 4;
  for (const Row& row : rows) width = std::max(width, row.spec.size() + 2);
  const char* bar = s.markdown ? "|" : "";
  fmt::print("{}{:<{}}", bar, s.markdown ? " spec " : "spec", width);
  for (const Law law : all_laws()) fmt::print("{}{:^13}", bar, to_string(law));
  fmt::print("{}\n", bar);
  if (s.markdown) {
    fmt::print("|---");
    for (std::size_t i = 0; i < all_laws().size(); ++i) fmt::print("|:-:");
    fmt::print("|\n");
  }
  for (const Row& row : rows) {
    fmt::print("{}{:<{}}", bar, s.markdown ? "`" + row.spec + "`" : row.spec, width);
    for (const Verdict& verdict : row.verdicts) {
      fmt::print("{}{:^13}", bar, cell(verdict, reasons));
    }
    fmt::print("{}\n", bar);
  }
  if (!reasons.all().empty()) fmt::print("\n");
  for (std::size_t i = 0; i < reasons.all().size(); ++i) {
    fmt::print("{}{}. {}\n", s.markdown ? "" : "– ", i + 1, reasons.all()[i]);
  }
}

int run(int argc, const char* const* argv) {
  Settings s;
  Flags flags("laws", "holds every method to its laws, on a tall, a wide and a square matrix");
  flags.list("projector", s.projectors, "SPEC",
             "methods; a bare name stands for all specs that its laws run with (all methods if not "
             "given)");
  flags.flag("mutants", s.mutants, "plant faults, too, and name those that no law notices");
  flags.flag("markdown", s.markdown, "the table as Markdown");
  flags.count("jobs", s.jobs, {.least = 1, .most = 1024}, "specs at the same time");
  flags.parse(argc, argv);
  std::vector<Row> rows;
  for (const std::string& spec : specs(s)) rows.push_back({spec, {}, {}});
  run_jobs(rows.size(), s.jobs, [&](std::size_t i) {
    throw_if_stop_requested();
    rows[i].verdicts = check_laws(rows[i].spec);
    if (s.mutants) rows[i].survivors = surviving_mutants(rows[i].spec);
  });
  print(rows, s);
  std::vector<std::string> faults;
  for (const Row& row : rows) {
    for (const Verdict& verdict : row.verdicts) {
      if (verdict.holds) continue;
      faults.push_back(fmt::format("{}: {}: {}", row.spec, to_string(verdict.law), verdict.detail));
    }
    for (const std::string& mutant : row.survivors) {
      faults.push_back(fmt::format("{}: no law notices '{}'", row.spec, mutant));
    }
  }
  for (const std::string& fault : faults) fmt::print("{}\n", fault);
  if (!faults.empty()) throw CheckFailed(fmt::format("{} of the laws' findings", faults.size()));
  return 0;
}

}  // namespace

int laws_main(int argc, const char* const* argv) {
  return run_program("laws", [&] { return run(argc, argv); });
}

}  // namespace gradview
