// Specs such as "lora:rank=8,alpha=16": a name and its options, read by the struct that declares
// them.
//
//   struct Options {
//     std::size_t rank = 8;
//     void declare(OptionSet& o) { o.count("rank", rank, {.least = 1}, "columns of u"); }
//   };
//   auto options = read_options<Options>(parse_spec("lora:rank=4"), "projector");
//
// One declaration gives parsing, range checks, errors with the nearest name, and the lines of
// --help.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gradview {

struct Spec {
  std::string name;
  std::vector<std::pair<std::string, std::string>> options;
  const std::string* find(
      std::string_view key) const;  // the value given for `key`, null where none
};

Spec parse_spec(const std::string& text);  // throws std::invalid_argument on a malformed spec
std::string to_string(const Spec& spec);
// `spec` with `more` set over its options.
Spec with_options(Spec spec, const std::vector<std::pair<std::string, std::string>>& more);
std::vector<std::pair<std::string, std::string>> parse_options(
    const std::string& text);  // "a=1,b=2"

struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool open_below = false;  // least itself is excluded
  bool open_above = false;
  bool contains(double value) const;
};
std::string to_string(const Range& range);  // "at least 1", "in [0, 1)", …

// A value of `what` ("option 'rank' of lora", "--steps") from text, in range; std::invalid_argument
// says what came.
double checked_number(const std::string& what, const std::string& text, const Range& range);
std::size_t checked_count(const std::string& what, const std::string& text, const Range& range);

struct OptionHelp {
  std::string key, value, help;  // value: the default
};

class OptionSet {
 public:
  explicit OptionSet(const Spec& spec) : spec_(spec) {}

  void count(const char* key, std::size_t& value, const Range& range, const char* help);
  void number(const char* key, double& value, const Range& range, const char* help);
  // A number whose absence means something else, described by `absent` ("= rank").
  void number(const char* key, std::optional<double>& value, const Range& range, const char* absent,
              const char* help);
  void flag(const char* key, bool& value, const char* help);
  void text(const char* key, std::string& value, const char* absent, const char* help);
  template <class Enum>
  void choice(const char* key, Enum& value, std::vector<std::pair<const char*, Enum>> choices,
              const char* help) {
    std::vector<std::string> names;
    std::size_t index = 0;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      names.emplace_back(choices[i].first);
      if (choices[i].second == value) index = i;
    }
    value = choices[pick(key, names, index, help)].second;
  }

  // One row of a table, each with name() and options of its own in declare(OptionSet&), which are
  // errors where another row is chosen. The first is the default.
  template <class Row>
  std::shared_ptr<const Row> one_of(const char* key, const std::vector<std::shared_ptr<Row>>& table,
                                    const char* help) {
    std::vector<std::string> names;
    for (const auto& row : table) names.emplace_back(row->name());
    const std::size_t chosen = pick(key, names, 0, help);
    for (std::size_t i = 0; i < table.size(); ++i) {
      only_with_ = std::string(key) + "=" + names[i];
      refused_ = i != chosen;
      table[i]->declare(*this);
    }
    only_with_.clear();
    refused_ = false;
    return table[chosen];
  }

  void reject_others() const;  // throws where the spec has an option that was not declared
  const std::vector<OptionHelp>& help() const { return help_; }

 private:
  const std::string* declare(const char* key, std::string value, const char* help);
  std::string what(const char* key) const;
  std::size_t pick(const char* key, const std::vector<std::string>& names, std::size_t index,
                   const char* help);

  const Spec& spec_;
  std::vector<OptionHelp> help_;
  std::string only_with_;  // the choice that the options being declared belong to
  bool refused_ = false;   // which is not the one made
};

struct NoOptions {
  void declare(OptionSet&) {}
};

template <class Options>
Options read_options(const Spec& spec) {
  Options options;
  OptionSet set(spec);
  options.declare(set);
  set.reject_others();
  return options;
}

template <class Options>
std::vector<OptionHelp> describe_options(const std::string& name) {
  const Spec spec{name, {}};
  Options options;
  OptionSet set(spec);
  options.declare(set);
  return set.help();
}

}  // namespace gradview
