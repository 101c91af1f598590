// Adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors. Read
// and written strictly: no tensor may be missing, none left over.
//
//     LORA       s u v,  s = alpha/r or alpha/√r            u = lora_B, v = lora_A
//       + dora   magnitude ∘ rows of (W + s u v)/‖·‖        magnitude = lora_magnitude_vector
//     ADALORA    s u diag(λ) v,  s = alpha/(r + 10⁻⁵)       λ = lora_E
//     LOHA       s (u1 v1) ∘ (u2 v2)                        hada_w1_a, hada_w1_b, hada_w2_a, …
//     LOKR       s w1 ⊗ w2                                  lokr_w1 or lokr_w1_a lokr_w1_b, …
//     VERA       diag(b) u diag(d) v                        vera_lambda_b, vera_lambda_d; u and v are
//                                                           parts of vera_B and vera_A, which all share
//
// huggingface/peft 0.21. The factors have the names that our projectors give their fields.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gradview/models/module.hpp"
#include "gradview/projections/projector.hpp"

namespace gradview {

struct Adapter {
  struct Module {
    std::string path;  // of the module: "bert.encoder.layer.0.attention.self.query"
    std::map<std::string, Matrix> factors;
    std::size_t rank = 0;
    double alpha = 0;
  };
  std::string method = "lora";  // lora, dora, adalora, loha, lokr, vera
  bool rslora = false;
  std::vector<Module> modules;
  // Whole tensors by their names: of modules_to_save, and of biases where bias is not none.
  std::vector<std::pair<std::string, Matrix>> saved, biases;
  std::string bias = "none";  // none, all, lora_only
  std::string task_type;      // SEQ_CLS, CAUSAL_LM; may be empty
  std::string base;           // base_model_name_or_path; may be empty
  double dropout = 0;  // of the adapter's input, as it was trained; written where PEFT has it

  double scale(const Module& module) const;            // s
  void set_scale(Module& module, double scale) const;  // its alpha, by its rank
};

// A LoRA module with the product s u v: alpha = s r, or s √r under rslora.
Adapter::Module lora_module(std::string path, LowRank product, bool rslora = false);

// `specs` are the weights of the model that the adapter is for. DataError "path: …": what is malformed
// or not supported, by name, and the missing and unexpected tensors, both listed.
Adapter read_peft(const std::string& folder, const std::vector<WeightSpec>& specs);

// std::invalid_argument where a module is not in the model or PEFT has no such adapter.
void check_peft(const Adapter& adapter, const std::vector<WeightSpec>& specs);
// The same, and IoError. The two files are replaced one after the other, the tensors last.
void write_peft(const std::string& folder, const Adapter& adapter,
                const std::vector<WeightSpec>& specs);

// W ← what the adapter makes of W, for every module; saved tensors and biases replace theirs.
// std::invalid_argument where a shape disagrees, or a module's weight is `tied`, the name of one that
// the model uses twice.
void merge(const Adapter& adapter, Weights& weights, const std::string& tied = "");

}  // namespace gradview
