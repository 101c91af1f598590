// How PEFT names the tensors of its adapters: what reading and writing share.
#pragma once

#include "gradview/io/peft.hpp"

namespace gradview::peft {

constexpr const char* prefix = "base_model.model.";
constexpr const char* vera_frames[] = {"base_model.vera_B", "base_model.vera_A"};  // of u, of v
constexpr const char* tensors_file = "adapter_model.safetensors";
constexpr const char* config_file = "adapter_config.json";

struct Part {          // one factor
  const char* field;   // ours
  const char* suffix;  // PEFT's
  bool vector = false, transposed = false;
};
using Parts = std::vector<Part>;
using Forms = std::vector<Parts>;  // a module has the parts of one of them

struct Tuner {
  const char *method, *type;  // "lora", "LORA"
  std::vector<Forms> sides;
  const char *rank, *alpha;  // keys of the configuration; alpha: null where s is 1
  bool linear_only;          // no embeddings
  bool turned;               // also on weights that are stored transposed
};
const std::vector<Tuner>& tuners();
const Tuner& tuner_of(const std::string& method);  // std::invalid_argument

// The modules of a model that an adapter can sit on, by their paths.
struct Place {
  Shape shape;
  bool embedding, transposed;
};
std::map<std::string, Place> places_of(const std::vector<WeightSpec>& specs);
std::vector<Forms> sides_of(const Tuner& tuner, const Place& place);

}  // namespace gradview::peft
