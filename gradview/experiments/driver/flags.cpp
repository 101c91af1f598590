#include "gradview/experiments/driver/flags.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/files.hpp"

namespace gradview {
namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

Flags::Flags(std::string program, std::string summary)
    : program_(std::move(program)), summary_(std::move(summary)) {
  print("help", "", "print this and end", [this](const std::string&) { print_help(); });
  print("version", "", "print the version and end",
        [this](const std::string&) { fmt::print("{} {}\n", program_, GRADVIEW_VERSION); });
}

Flags::Flag* Flags::find(const std::string& name) {
  const auto found = std::find_if(flags_.begin(), flags_.end(),
                                  [&](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

std::vector<std::string> Flags::names() const {
  std::vector<std::string> all{"config"};
  for (const Flag& flag : flags_) all.push_back(flag.name);
  return all;
}

bool Flags::given(const std::string& name) const {
  return std::any_of(flags_.begin(), flags_.end(),
                     [&](const Flag& flag) { return flag.name == name && flag.given; });
}

void Flags::exclude(const std::string& one, const std::string& other) const {
  if (given(one) && given(other)) {
    throw std::invalid_argument("--" + one + " and --" + other +
                                " contradict each other; give one of them");
  }
}

void Flags::count(const std::string& name, std::size_t& value, const Range& range,
                  const std::string& help) {
  add({name, "N", help, std::to_string(value), false,
       [&value, name, range](const auto& words) {
         value = checked_count("--" + name, words.front(), range);
       },
       [&value] { return Json(value); }});
}

void Flags::number(const std::string& name, double& value, const Range& range,
                   const std::string& help) {
  add({name, "X", help, exact(value), false,
       [&value, name, range](const auto& words) {
         value = checked_number("--" + name, words.front(), range);
       },
       [&value] { return Json(value); }});
}

void Flags::number(const std::string& name, std::optional<double>& value, const Range& range,
                   const std::string& absent, const std::string& help) {
  add({name, "X", help, absent, false,
       [&value, name, range](const auto& words) {
         value = checked_number("--" + name, words.front(), range);
       },
       [&value] { return value ? Json(*value) : Json(nullptr); }});
}

void Flags::count(const std::string& name, std::optional<std::size_t>& value, const Range& range,
                  const std::string& absent, const std::string& help) {
  add({name, "N", help, absent, false,
       [&value, name, range](const auto& words) {
         value = checked_count("--" + name, words.front(), range);
       },
       [&value] { return value ? Json(*value) : Json(nullptr); }});
}

void Flags::text(const std::string& name, std::string& value, const std::string& kind,
                 const std::string& help) {
  add({name, kind, help, value, false, [&value](const auto& words) { value = words.front(); },
       [&value] { return Json(value); }});
}

void Flags::list(const std::string& name, std::vector<std::string>& value, const std::string& kind,
                 const std::string& help) {
  add({name, kind + "…", help, join(value, " "), true,
       [&value](const auto& words) { value = words; }, [&value] { return Json(value); }});
}

void Flags::flag(const std::string& name, bool& value, const std::string& help) {
  add({name, "", help, "", false,
       [&value, name](const auto& words) {
         if (words.empty() || words.front() == "true") {
           value = true;
         } else if (words.front() == "false") {
           value = false;
         } else {
           throw std::invalid_argument("--" + name + " is '" + words.front() +
                                       "', expected true or false");
         }
       },
       [&value] { return Json(value); }});
}

void Flags::choice(const std::string& name, std::string& value,
                   const std::vector<std::string>& choices, const std::string& help) {
  add({name, join(choices, "|"), help, value, false,
       [&value, name, choices](const auto& words) {
         if (std::find(choices.begin(), choices.end(), words.front()) == choices.end()) {
           throw std::invalid_argument("--" + name + " is '" + words.front() + "'; there are " +
                                       join(choices, ", ") + did_you_mean(words.front(), choices));
         }
         value = words.front();
       },
       [&value] { return Json(value); }});
}

void Flags::print(const std::string& name, const std::string& kind, const std::string& help,
                  std::function<void(const std::string&)> action) {
  Flag flag{name,
            kind,
            help,
            "",
            false,
            [action = std::move(action)](const auto& words) {
              action(words.empty() ? std::string() : words.front());
              throw Finished{};
            },
            [] { return Json(); }};
  flag.action = true;
  add(std::move(flag));
}

void Flags::print_help() const {
  fmt::print("{} — {}\n\nusage: {} [flags]\n\n", program_, summary_, program_);
  const auto line = [](const std::string& left, const std::string& help, const std::string& shown) {
    fmt::print("  {:<30}{}{}\n", left, left.size() > 29 ? "\n" + std::string(32, ' ') + help : help,
               shown.empty() ? "" : " [" + shown + "]");
  };
  for (const Flag& flag : flags_) {
    line("--" + flag.name + (flag.kind.empty() ? "" : " " + flag.kind), flag.help, flag.shown);
  }
  line("--config FILE", "take flags from a run.json; the command line comes first", "");
}

namespace {

using Words = std::vector<std::string>;

// Splits the command line: flag → its words. Boost knows the grammar; values are checked by our own
// assigners.
std::map<std::string, Words> split_command_line(const po::options_description& known, int argc,
                                                const char* const* argv, const Words& names) {
  po::positional_options_description none;
  none.add("", 0);
  std::map<std::string, Words> given;
  try {
    const auto parsed =
        po::command_line_parser(argc, argv)
            .options(known)
            .positional(none)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing &
                   ~po::command_line_style::allow_short)
            .run();
    for (const auto& option : parsed.options) {
      const bool repeated = given.count(option.string_key) > 0;
      const bool composes = option.string_key == "override";
      if (repeated && !composes) {
        throw std::invalid_argument("--" + option.string_key +
                                    " is given twice; list its values after one of them");
      }
      Words& words = given[option.string_key];
      words.insert(words.end(), option.value.begin(), option.value.end());
    }
  } catch (const po::unknown_option& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    throw std::invalid_argument("no flag --" + name + did_you_mean(name, names) + "; see --help");
  } catch (const po::too_many_positional_options_error&) {
    throw std::invalid_argument("a value without a flag; see --help");
  } catch (const po::error& error) {
    throw std::invalid_argument(error.what());
  }
  return given;
}

Words words_of(const Json& value, const std::string& name) {
  const auto word = [&](const Json& v) -> std::string {
    if (v.is_string()) return v.get<std::string>();
    if (v.is_boolean()) return v.get<bool>() ? "true" : "false";
    if (v.is_number()) return v.is_number_float() ? exact(v.get<double>()) : v.dump();
    throw DataError("--config: '" + name + "' is neither a number, a word nor a list of them");
  };
  if (!value.is_array()) return {word(value)};
  Words words;
  for (const Json& v : value) words.push_back(word(v));
  return words;
}

}  // namespace

void Flags::read_config(const std::string& path) {
  const Json config = Json::parse(read_text(path), nullptr, false);
  if (!config.is_object()) throw DataError("--config: " + path + " is not a JSON object");
  for (const auto& [name, value] : config.items()) {
    Flag* flag = find(name);
    if (!flag || flag->action) {
      throw std::invalid_argument("--config: " + path + " has '" + name +
                                  "', which is no flag of " + program_ +
                                  did_you_mean(name, names()));
    }
    if (flag->given || value.is_null()) continue;
    const Words words = words_of(value, name);
    if (words == Words{""} || (words.empty() && !flag->kind.empty()))
      continue;  // not given then either
    flag->assign(words);
    flag->given = true;
  }
}

void Flags::parse(int argc, const char* const* argv) {
  po::options_description known;
  for (const Flag& flag : flags_) {
    if (flag.kind.empty()) {
      known.add_options()(flag.name.c_str(), "");
    } else if (flag.many) {
      known.add_options()(flag.name.c_str(), po::value<Words>()->multitoken());
    } else {
      known.add_options()(flag.name.c_str(), po::value<std::string>());
    }
  }
  known.add_options()("config", po::value<std::string>());
  const auto given = split_command_line(known, argc, argv, names());
  for (const char* first : {"help", "version"}) {
    if (given.count(first) > 0) find(first)->assign({});
  }
  for (const auto& [name, words] : given) {
    if (name == "config") continue;
    Flag& flag = *find(name);
    flag.given = true;
    flag.assign(words);
  }
  const auto config = given.find("config");
  if (config != given.end()) read_config(config->second.front());
}

Json Flags::resolved() const {
  Json all;
  for (const Flag& flag : flags_) {
    if (!flag.action) all[flag.name] = flag.value();
  }
  return all;
}

}  // namespace gradview
