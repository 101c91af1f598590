// The config.json of a Hugging Face folder, as transformers 4 and 5 write it: rope_theta and
// rope_scaling or rope_parameters, torch_dtype or dtype (which we need not know).
#pragma once

#include <string>
#include <vector>

#include "gradview/models/transformer.hpp"

namespace gradview {

struct HfConfig {
  std::string model_type;           // bert, gpt2, llama
  Transformer trunk;                // its sizes and modules
  bool tied = true;                 // the head of a language model
  double classifier_dropout = 0;    // before a classification head
  double initializer_range = 0.02;  // deviation of weights that a checkpoint lacks
  std::vector<std::string> labels;  // by their numbers; two unless the file says otherwise
};

// `text` is the file at `path`. DataError "path: …" on what is malformed, and by name on what is not
// supported.
HfConfig parse_hf_config(const std::string& path, const std::string& text);

// The text with what a written folder needs: the class of transformers that loads it, its labels
// (none: as they are), their names (none: LABEL_0 …, or as they are where there are as many) and the
// dtype of the values.
std::string rewritten_hf_config(const std::string& text, const std::string& architecture,
                                std::size_t labels, const std::vector<std::string>& names = {});

// The text with linear scaling of the rotary positions, in the form that it has already.
std::string with_rope_scaling(const std::string& text, double factor, std::size_t positions);

}  // namespace gradview
