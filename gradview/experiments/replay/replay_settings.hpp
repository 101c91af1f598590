// What a call of replay asks for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gradview/experiments/driver/flags.hpp"
#include "gradview/optim/optimizer.hpp"

namespace gradview {

struct ReplaySettings {
  std::string weights, gradients, factors, optimizer, schedule = "constant", report, out;
  std::vector<std::string> projectors;
  std::optional<double> lr, clip;
  std::size_t seed = 0, threads = 1, init_batches = 1;
  bool trace = false, quiet = false;

  void declare(Flags& flags);
  // Checks what can be checked without the data, the output paths included.
  void finish() const;
  std::vector<std::string> outputs() const;  // a file per projector
  Optimizer::Settings optimizer_settings(std::size_t steps) const;
};

}  // namespace gradview
