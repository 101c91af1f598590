// What --list, --help-projector and --help-optimizer print on stdout.
#pragma once

#include <string>
#include <vector>

#include "gradview/core/spec.hpp"

namespace gradview {

void print_options(const std::vector<OptionHelp>& options);
void print_projectors();  // one line each, name first
void print_projector_help(
    const std::string& name);  // throws std::invalid_argument with the nearest name
void print_optimizers();

}  // namespace gradview
