#include "gradview/core/spec.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gradview/core/text.hpp"

namespace gradview {

const std::string* Spec::find(std::string_view key) const {
  for (const auto& option : options) {
    if (option.first == key) return &option.second;
  }
  return nullptr;
}

std::vector<std::pair<std::string, std::string>> parse_options(const std::string& text) {
  std::vector<std::pair<std::string, std::string>> options;
  for (const std::string& part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == 0 || equals == part.npos || equals + 1 == part.size()) {
      throw std::invalid_argument("'" + part + "' is not an option; write key=value[,key=value…]");
    }
    std::string key = part.substr(0, equals);
    for (const auto& [name, value] : options) {
      if (name == key) throw std::invalid_argument("option '" + key + "' is given twice");
    }
    options.emplace_back(std::move(key), part.substr(equals + 1));
  }
  return options;
}

Spec parse_spec(const std::string& text) {
  const std::size_t colon = text.find(':');
  Spec spec{text.substr(0, colon), {}};
  if (spec.name.empty()) {
    throw std::invalid_argument("'" + text + "' is not a spec; write name or name:key=value[,…]");
  }
  if (colon == text.npos) return spec;
  try {
    spec.options = parse_options(text.substr(colon + 1));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("in '" + text + "': " + error.what());
  }
  return spec;
}

std::string to_string(const Spec& spec) {
  std::vector<std::string> options;
  for (const auto& [key, value] : spec.options) options.push_back(key + "=" + value);
  return options.empty() ? spec.name : spec.name + ":" + join(options, ",");
}

Spec with_options(Spec spec, const std::vector<std::pair<std::string, std::string>>& more) {
  for (const auto& each : more) {
    const auto same = std::find_if(spec.options.begin(), spec.options.end(),
                                   [&](const auto& option) { return option.first == each.first; });
    if (same != spec.options.end()) {
      same->second = each.second;
    } else {
      spec.options.push_back(each);
    }
  }
  return spec;
}

bool Range::contains(double value) const {
  return (open_below ? value > least : value >= least) &&
         (open_above ? value < most : value <= most);
}

std::string to_string(const Range& range) {
  const bool below = std::isfinite(range.least);
  const bool above = std::isfinite(range.most);
  if (below && above) {
    return std::string("in ") + (range.open_below ? "(" : "[") + exact(range.least) + ", " +
           exact(range.most) + (range.open_above ? ")" : "]");
  }
  if (below) return (range.open_below ? "above " : "at least ") + exact(range.least);
  if (above) return (range.open_above ? "below " : "at most ") + exact(range.most);
  return "finite";
}

namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& text, const char* kind,
                         const Range& range) {
  throw std::invalid_argument(what + " is '" + text + "', expected " + kind + " " +
                              to_string(range));
}

}  // namespace

double checked_number(const std::string& what, const std::string& text, const Range& range) {
  const auto value = parse_number(text);
  if (!value || !range.contains(*value)) refuse(what, text, "a number", range);
  return *value;
}

std::size_t checked_count(const std::string& what, const std::string& text, const Range& range) {
  const auto value = parse_integer(text);
  Range natural = range;
  natural.least = std::max(range.least, 0.0);
  if (!value || !natural.contains(static_cast<double>(*value))) {
    refuse(what, text, "a whole number", natural);
  }
  return static_cast<std::size_t>(*value);
}

std::string OptionSet::what(const char* key) const {
  return "option '" + std::string(key) + "' of " + spec_.name;
}

const std::string* OptionSet::declare(const char* key, std::string value, const char* help) {
  help_.push_back({key, std::move(value), only_with_.empty() ? help : only_with_ + ": " + help});
  const std::string* given = spec_.find(key);
  if (given && refused_) {
    throw std::invalid_argument(what(key) + " is given, but it belongs to " + only_with_);
  }
  return given;
}

void OptionSet::count(const char* key, std::size_t& value, const Range& range, const char* help) {
  if (const auto* text = declare(key, std::to_string(value), help)) {
    value = checked_count(what(key), *text, range);
  }
}

void OptionSet::number(const char* key, double& value, const Range& range, const char* help) {
  if (const auto* text = declare(key, exact(value), help)) {
    value = checked_number(what(key), *text, range);
  }
}

void OptionSet::number(const char* key, std::optional<double>& value, const Range& range,
                       const char* absent, const char* help) {
  if (const auto* text = declare(key, absent, help))
    value = checked_number(what(key), *text, range);
}

void OptionSet::text(const char* key, std::string& value, const char* absent, const char* help) {
  if (const auto* given = declare(key, absent, help)) value = *given;
}

void OptionSet::flag(const char* key, bool& value, const char* help) {
  value = pick(key, {"false", "true"}, value ? 1 : 0, help) == 1;
}

std::size_t OptionSet::pick(const char* key, const std::vector<std::string>& names,
                            std::size_t index, const char* help) {
  const auto* text = declare(key, names[index] + " (" + join(names, " | ") + ")", help);
  if (!text) return index;
  const auto found = std::find(names.begin(), names.end(), *text);
  if (found == names.end()) {
    throw std::invalid_argument(what(key) + " is '" + *text + "'; there are " + join(names, ", ") +
                                did_you_mean(*text, names));
  }
  return static_cast<std::size_t>(found - names.begin());
}

void OptionSet::reject_others() const {
  std::vector<std::string> keys;
  for (const OptionHelp& option : help_) keys.push_back(option.key);
  for (const auto& [key, value] : spec_.options) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    throw std::invalid_argument(
        spec_.name + " has no option '" + key +
        (keys.empty() ? "'; it takes none" : "'; there are " + join(keys, ", ")) +
        did_you_mean(key, keys));
  }
}

}  // namespace gradview
