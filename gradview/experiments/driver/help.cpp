#include "gradview/experiments/driver/help.hpp"

#include <fmt/format.h>

#include "gradview/core/text.hpp"
#include "gradview/optim/optimizer_spec.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {

void print_options(const std::vector<OptionHelp>& options) {
  for (const OptionHelp& option : options) {
    fmt::print("  {:<16}{:<44}{}\n", option.key, option.value, option.help);
  }
}

void print_projectors() {
  for (const Method& method : projectors()) fmt::print("{:<12}{}\n", method.name, method.summary);
}

void print_optimizers() {
  for (const RuleHelp& rule : describe_optimizers()) {
    fmt::print("{} — {}\n", rule.name, rule.summary);
    print_options(rule.options);
  }
}

void print_projector_help(const std::string& name) {
  const Method& method = find_projector(name);
  fmt::print("{} — {}\n", method.name, method.summary);
  if (!method.options.empty()) fmt::print("\noptions, as in {}:key=value,…\n", method.name);
  print_options(method.options);
  const Matrix weight = zeros({8, 6});
  const auto projector = make_projector({name, {}}, Site{"w", weight});
  std::vector<std::string> factors;
  projector->fields([&](std::string_view field, Matrix& value, Role role) {
    factors.push_back(fmt::format("{} ({}{})", field, role == Role::frozen ? "frozen, " : "",
                                  to_string(shape_of(value))));
  });
  if (!factors.empty()) {
    fmt::print("\nstate by name, for an 8 x 6 matrix: {}\n", join(factors, ", "));
  }
}

}  // namespace gradview
