// What a fine-tuning trains: every weight of the model with the part that it has.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gradview/core/spec.hpp"
#include "gradview/experiments/finetune/finetune_settings.hpp"
#include "gradview/io/peft.hpp"
#include "gradview/models/text_model.hpp"

namespace gradview {

struct TunedWeight {
  std::string name, module;  // "a.b.weight" of "a.b"
  Shape shape;
  std::optional<Spec> projector;  // none: frozen
  bool adapted = false;           // by --projector; else whole, under full
  bool saved = false;             // goes whole into the adapter, as modules_to_save has it
  bool bias = false;              // or as a bias
  std::size_t trained = 0;        // numbers
  std::string note;
};

// `adapter` may be null, `fresh` are weights that the checkpoint lacks. std::invalid_argument where a
// pattern is malformed or matches nothing; DataError where the adapter sits on a weight that the model
// uses twice.
std::vector<TunedWeight> plan_finetune(const FineTuneSettings& settings, const TextModel& model,
                                       const Adapter* adapter,
                                       const std::vector<std::string>& fresh);

// The table of adapted and frozen parameters, layers that are alike in one line.
std::string describe(const std::vector<TunedWeight>& plan);

}  // namespace gradview
