// Flags of a program: declared once with default, range and help; read from the command line, then
// from --config FILE.
//
//   Flags flags("compare", "what it does");
//   flags.count("steps", steps, {.least = 1}, "training steps");
//   flags.parse(argc, argv);      // also handles --help, --version and --config; throws
//   std::invalid_argument
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "gradview/core/spec.hpp"

namespace gradview {

struct Finished {};  // thrown by parse() where the call asked for words only (--help, --version)

class Flags {
 public:
  Flags(std::string program, std::string summary);

  void count(const std::string& name, std::size_t& value, const Range& range,
             const std::string& help);
  void number(const std::string& name, double& value, const Range& range, const std::string& help);
  void number(const std::string& name, std::optional<double>& value, const Range& range,
              const std::string& absent, const std::string& help);
  void count(const std::string& name, std::optional<std::size_t>& value, const Range& range,
             const std::string& absent, const std::string& help);
  void text(const std::string& name, std::string& value, const std::string& kind,
            const std::string& help);
  void list(const std::string& name, std::vector<std::string>& value, const std::string& kind,
            const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);
  void choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
              const std::string& help);
  // A flag that prints something and ends the program; with a value where `kind` is not empty.
  void print(const std::string& name, const std::string& kind, const std::string& help,
             std::function<void(const std::string&)> action);

  void parse(int argc, const char* const* argv);
  bool given(const std::string& name) const;  // on the command line or in --config
  // Throws where both were given.
  void exclude(const std::string& one, const std::string& other) const;

  nlohmann::ordered_json resolved() const;  // every flag with its value

 private:
  struct Flag {
    std::string name, kind, help, shown;  // shown: the default
    bool many;
    std::function<void(const std::vector<std::string>&)> assign;
    std::function<nlohmann::ordered_json()> value;
    bool action = false;
    bool given = false;
  };
  void add(Flag flag) { flags_.push_back(std::move(flag)); }
  Flag* find(const std::string& name);
  std::vector<std::string> names() const;
  void read_config(const std::string& path);
  void print_help() const;

  std::string program_, summary_;
  std::vector<Flag> flags_;
};

}  // namespace gradview
