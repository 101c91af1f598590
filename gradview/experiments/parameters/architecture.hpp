// Architecture: the weights of a transformer by name and shape, from a Hugging Face config.json.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct WeightGroup {  // `count` weights of one shape
  std::string name;   // with "*" for the block's number
  Shape shape;        // outputs x inputs; a vector is 1 x n
  std::size_t count;  // blocks, or 1
  bool in_block;      // belongs to the repeated blocks: what adapters are put on by default
  bool vector() const { return shape.rows == 1; }
  std::size_t numbers() const { return shape.size() * count; }
};

struct Architecture {
  std::string name;
  std::vector<WeightGroup> weights;
  std::size_t numbers() const;
};

std::vector<std::string> known_models();
// A known name, or the path of a config.json (bert, roberta, gpt2, llama, mistral, qwen2, falcon).
// std::invalid_argument with the nearest name; DataError where the file is missing or says nothing
// usable.
Architecture read_architecture(const std::string& name_or_path);

}  // namespace gradview
