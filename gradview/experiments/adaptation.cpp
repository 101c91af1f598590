#include "gradview/experiments/adaptation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <regex>
#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {
namespace {

std::regex compile(const std::string& flag, const std::string& pattern) {
  try {
    return std::regex(pattern);
  } catch (const std::regex_error&) {
    throw std::invalid_argument(flag + " '" + pattern + "' is not a regular expression");
  }
}

std::string without_numbers(const std::string& name) {
  std::vector<std::string> parts = split(name, '.');
  for (std::string& part : parts) {
    if (parse_integer(part)) part = "*";
  }
  return join(parts, ".");
}

enum class Among { matrices, all };

void require_match(const std::string& flag, const std::string& pattern, const std::regex& regex,
                   const Weights& weights, Among among) {
  std::vector<std::string> names;
  for (const auto& [name, value] : weights) {
    if (among == Among::all || value.shape()[0] > 1) names.push_back(name);
  }
  for (const auto& [name, value] : weights.all_quantised()) names.push_back(name);
  const auto matches = [&](const std::string& name) { return std::regex_search(name, regex); };
  if (std::any_of(names.begin(), names.end(), matches)) return;
  std::vector<std::string> kinds;  // layers that are alike once
  for (const std::string& name : names) {
    const std::string kind = without_numbers(name);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  throw std::invalid_argument(fmt::format("{} '{}' matches no {}; there are {}{}", flag, pattern,
                                          among == Among::all ? "parameter" : "matrix",
                                          join(kinds, ", "), did_you_mean(pattern, names)));
}

Site site_of(const Planned& planned, const Weights& weights, std::uint64_t seed,
             std::size_t steps) {
  static const Matrix none = zeros({0, 0});
  const QuantisedMatrix* quantised = weights.quantised(planned.name);
  return {.name = planned.name,
          .weight = quantised ? none : weights[planned.name],
          .seed = seed,
          .steps = steps,
          .before_softmax = planned.before_softmax,
          .quantised = quantised};
}

Planned adapted(Planned planned, const Spec& spec, const Weights& weights, std::size_t steps) {
  planned.projector = spec;
  planned.trained = count_numbers(spec, planned.shape).trained;
  const std::size_t limit = std::min(planned.shape.rows, planned.shape.cols);
  if (asked_rank(spec) > limit) planned.note = fmt::format("rank capped at {}", limit);
  const std::string note = make_projector(spec, site_of(planned, weights, 0, steps))->note();
  if (!note.empty()) planned.note += (planned.note.empty() ? "" : "; ") + note;
  return planned;
}

}  // namespace

Placed parse_placed(const std::string& text) {
  const std::size_t four = text.rfind('%');
  const std::string place = text.substr(0, four);
  const std::size_t at = place.find('@');
  Placed out{parse_spec(place.substr(0, at)), "", ""};
  if (four != text.npos) {
    const std::string frozen = text.substr(four + 1);
    const std::size_t colon = frozen.find(':');
    out.frozen = {four_bit(frozen.substr(0, colon)),
                  colon == frozen.npos ? "" : frozen.substr(colon + 1)};
  }
  if (at == place.npos) return out;
  const std::size_t more = place.find('&', at);
  out.target = place.substr(at + 1, more == place.npos ? more : more - at - 1);
  if (more != place.npos) out.also = place.substr(more + 1);
  if (out.target.empty() || (more != place.npos && out.also.empty())) {
    throw std::invalid_argument("'" + text +
                                "' has an empty place; write SPEC@MATRICES or SPEC@MATRICES&ALSO");
  }
  return out;
}

std::size_t asked_rank(const Spec& spec) {
  const Method& method = find_projector(spec.name);
  for (const OptionHelp& option : method.options) {
    if (option.key != "rank" || !method.caps_rank) continue;
    const std::string* given = spec.find("rank");
    return checked_count("option 'rank' of " + spec.name, given ? *given : option.value,
                         {.least = 1});
  }
  return 0;
}

std::vector<Planned> plan(const Adaptation& adaptation, const Weights& weights,
                          const std::vector<std::string>& before_softmax) {
  const Method& method = find_projector(adaptation.projector.name);
  const std::regex target = compile("--target", adaptation.target);
  require_match("--target", adaptation.target, target, weights,
                method.trains_biases ? Among::all : Among::matrices);
  std::vector<std::regex> also;
  for (const std::string& pattern : adaptation.also) {
    also.push_back(compile("--also", pattern));
    require_match("--also", pattern, also.back(), weights, Among::all);
  }
  std::vector<std::pair<std::regex, const Override*>> overrides;
  for (const Override& each : adaptation.overrides) {
    overrides.emplace_back(compile("--override", each.pattern), &each);
    require_match("--override", each.pattern, overrides.back().first, weights, Among::matrices);
  }
  const Spec full{"full", {}};
  std::vector<Planned> out;
  bool fits = false;
  std::size_t least_asked = SIZE_MAX;
  std::vector<Planned> all;
  for (const auto& [name, value] : weights) {
    all.push_back({.name = name, .shape = shape_of(value), .projector = {}, .note = {}});
  }
  for (const auto& [name, value] : weights.all_quantised()) {
    all.push_back({.name = name,
                   .shape = value->shape(),
                   .projector = {},
                   .quantised = true,
                   .note = to_string(value->type())});
  }
  for (Planned& planned : all) {
    const std::string name = planned.name;
    planned.vector = planned.shape.rows == 1;
    planned.before_softmax =
        std::find(before_softmax.begin(), before_softmax.end(), name) != before_softmax.end();
    const bool targeted = std::regex_search(name, target);
    if (std::any_of(also.begin(), also.end(),
                    [&](const std::regex& each) { return std::regex_search(name, each); })) {
      out.push_back(adapted(planned, full, weights, adaptation.steps));
    } else if (planned.vector) {
      const bool trained = adaptation.train_biases || (method.trains_biases && targeted);
      out.push_back(trained ? adapted(planned, full, weights, adaptation.steps) : planned);
    } else if (targeted) {
      Spec spec = adaptation.projector;
      for (const auto& [regex, each] : overrides) {
        if (std::regex_search(name, regex)) spec = with_options(spec, each->options);
      }
      least_asked = std::min(least_asked, asked_rank(spec));
      fits = fits || asked_rank(spec) <= std::min(planned.shape.rows, planned.shape.cols);
      out.push_back(adapted(planned, spec, weights, adaptation.steps));
    } else {
      out.push_back(adaptation.train_rest && !planned.quantised
                        ? adapted(planned, full, weights, adaptation.steps)
                        : planned);
    }
  }
  if (!fits && least_asked != SIZE_MAX) {
    throw std::invalid_argument(
        fmt::format("rank {} of '{}' is above the limit of every matrix that it is for",
                    least_asked, to_string(adaptation.projector)));
  }
  return out;
}

void apply(const std::vector<Planned>& plan, Weights& weights, std::uint64_t seed,
           Optimizer& optimizer, double dropout) {
  for (const Planned& planned : plan) {
    if (!planned.projector) continue;
    const std::string& name = planned.name;
    const Site site = site_of(planned, weights, seed, optimizer.steps());
    auto projector = make_projector(*planned.projector, site);
    const bool drops = dropout > 0 && !planned.vector && !projector->is_weight();
    if (drops && !projector->update()) {
      throw std::invalid_argument("dropout on the adapter's input: '" +
                                  to_string(*planned.projector) + "' on '" + name +
                                  "' has no product that stays beside W, as lora and dora have");
    }
    if (planned.quantised) {
      optimizer.add(name, *weights.quantised(name), std::move(projector), planned.before_softmax);
    } else {
      optimizer.add(name, weights[name], std::move(projector), planned.before_softmax,
                    !planned.vector);
    }
    if (drops || planned.quantised) {
      weights.put_beside(name, {&optimizer.projector(name), drops ? dropout : 0});
    }
  }
}

Weights started(const Adaptation& adaptation, const Weights& weights) {
  Weights out = weights;
  if (!adaptation.frozen) return out;
  const auto& [type, pattern] = *adaptation.frozen;
  const std::regex regex = compile("the place after %", pattern);
  require_match("the place after %", pattern, regex, weights, Among::matrices);
  for (const auto& [name, value] : weights) {
    if (value.shape()[0] > 1 && std::regex_search(name, regex)) out.quantise(name, type);
  }
  return out;
}

std::size_t trained_numbers(const std::vector<Planned>& plan) {
  std::size_t sum = 0;
  for (const Planned& planned : plan) sum += planned.trained;
  return sum;
}

std::string describe(const std::vector<Planned>& plan) {
  struct Line {
    Planned one;
    std::size_t count, trained;
    std::string name, method;
  };
  std::vector<Line> lines;
  std::size_t trained = 0, numbers = 0;
  for (const Planned& planned : plan) {
    trained += planned.trained;
    numbers += planned.shape.rows * planned.shape.cols;
    const std::string name = without_numbers(planned.name);
    const std::string method = planned.trained > 0 ? to_string(*planned.projector) : "frozen";
    const auto alike = std::find_if(lines.begin(), lines.end(), [&](const Line& line) {
      return line.name == name && line.method == method && line.one.shape == planned.shape &&
             line.one.note == planned.note;
    });
    if (alike == lines.end()) {
      lines.push_back({planned, 1, planned.trained, name, method});
    } else {
      ++alike->count;
      alike->trained += planned.trained;
    }
  }
  std::size_t name_width = 9, method_width = 9;
  for (Line& line : lines) {
    if (line.count > 1) line.name += fmt::format(" × {}", line.count);
    if (line.count == 1) line.name = line.one.name;
    name_width = std::max(name_width, line.name.size());
    method_width = std::max(method_width, line.method.size());
  }
  const auto row = [&](const std::string& name, const std::string& shape, const std::string& method,
                       const std::string& count, const std::string& note) {
    std::string text = fmt::format("  {:<{}}  {:>13}  {:<{}}  {:>11}  {}", name, name_width, shape,
                                   method, method_width, count, note);
    return text.erase(text.find_last_not_of(' ') + 1) + "\n";
  };
  std::string text = row("parameter", "shape", "projector", "trained", "");
  for (const Line& line : lines) {
    text += row(line.name, to_string(line.one.shape), line.method, std::to_string(line.trained),
                line.one.note);
  }
  return text + row("all", "", "", std::to_string(trained),
                    fmt::format("of {} ({:.3g} %)", numbers,
                                100.0 * static_cast<double>(trained) /
                                    static_cast<double>(std::max<std::size_t>(numbers, 1))));
}

}  // namespace gradview
