#include "gradview/experiments/compare/knob.hpp"

#include <algorithm>
#include <stdexcept>

#include "gradview/core/spec.hpp"
#include "gradview/core/text.hpp"

namespace gradview {
namespace {

std::string canonical(const std::string& value) {  // 4, 4.0 and 4e0 are one value
  const auto number = parse_number(value);
  return number ? exact(*number) : value;
}

std::vector<std::string> values_of(const std::string& key, const std::string& text) {
  const std::vector<std::string> values = split(text, '|');
  std::vector<std::string> seen;
  for (const std::string& value : values) {
    if (value.empty()) {
      throw std::invalid_argument("option '" + key + "' is '" + text +
                                  "', with an empty value; write " + key + "=A|B|…");
    }
    if (std::find(seen.begin(), seen.end(), canonical(value)) != seen.end()) {
      throw std::invalid_argument("option '" + key + "' is '" + text + "', with '" + value +
                                  "' twice");
    }
    seen.push_back(canonical(value));
  }
  return values;
}

}  // namespace

std::vector<std::string> alternatives(const std::string& text) {
  const std::size_t at = std::min(text.find('@'), text.size());
  const Spec spec = parse_spec(text.substr(0, at));
  const std::string place = text.substr(at);  // adaptation.hpp; a | there is no knob
  std::vector<std::string> specs{text};
  std::string knob;
  for (const auto& [key, value] : spec.options) {
    if (value.find('|') == value.npos) continue;
    if (!knob.empty()) {
      throw std::invalid_argument("'" + text + "' has two knobs, '" + knob + "' and '" + key +
                                  "'; a spec may have one");
    }
    knob = key;
    specs.clear();
    try {
      for (const std::string& each : values_of(key, value)) {
        specs.push_back(to_string(with_options(spec, {{key, each}})) + place);
      }
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("in '" + text + "': " + error.what());
    }
  }
  return specs;
}

}  // namespace gradview
