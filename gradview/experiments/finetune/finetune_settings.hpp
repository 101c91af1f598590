// What a call of finetune asks for.
#pragma once

#include <optional>
#include <string>

#include "gradview/experiments/driver/compute.hpp"
#include "gradview/experiments/driver/run_folder.hpp"
#include "gradview/models/classifier.hpp"
#include "gradview/optim/optimizer.hpp"

namespace gradview {

struct FineTuneSettings {
  std::string model, train, eval, task = "classify", projector, target, optimizer = "adamw";
  std::string frozen = "float", schedule = "linear", adapter, predict, pooling = "cls",
              bias = "none", save_modules;
  std::optional<double> lr, clip, rope_factor;
  double lora_dropout = 0;
  std::optional<std::size_t> labels, group;
  std::size_t steps = 1000, batch_size = 16, eval_every = 0, save_every = 100, init_batches = 8;
  std::size_t seed = 0, threads = 1;
  bool merge = false, mutated_base = false, no_shuffle = false, no_dropout = false, no_plot = false,
       quick = false, quiet = false;
  FolderFlags folder{.option = "save"};
  ComputeFlag compute;

  void declare(Flags& flags);
  void finish(const Flags& flags);  // checks what can be checked without the files; applies --quick

  bool classifies() const { return task == "classify"; }
  bool adapts() const { return steps > 0; }
  bool in_four_bits() const { return frozen != "float"; }
  bool saves() const { return adapts() || merge || !folder.out.empty(); }
  Optimizer::Settings optimizer_settings() const;
};

}  // namespace gradview
