#include "gradview/experiments/where/parts.hpp"

#include <algorithm>
#include <regex>
#include <stdexcept>

#include "gradview/core/text.hpp"

namespace gradview {
namespace {

struct Part {
  std::string name, pattern, full_method = {};
};

const std::vector<Part> kParts{{"q", "(self[.]query|q_proj)[.]weight"},
                               {"k", "(self[.]key|k_proj)[.]weight"},
                               {"v", "(self[.]value|v_proj)[.]weight"},
                               {"o", "(attention[.]output[.]dense|o_proj|attn[.]c_proj)[.]weight"},
                               {"mlp",
                                "(intermediate[.]dense|[0-9][.]output[.]dense|(gate|up|down)_proj|"
                                "mlp[.]c_(fc|proj))[.]weight"},
                               {"norm", "([nN]orm|ln_[12f])[.](weight|bias)", "bitfit"},
                               {"embed", "(word_embeddings|embed_tokens|wte)[.]weight", "full"}};

const Part& part_named(const std::string& name) {
  std::vector<std::string> names;
  for (const Part& part : kParts) {
    if (part.name == name) return part;
    names.push_back(part.name);
  }
  throw std::invalid_argument("where: there is no part '" + name + "'; there are " +
                              join(names, ", "));
}

}  // namespace

std::string pattern_of(const std::string& parts) {
  std::vector<std::string> patterns;
  for (const std::string& name : split(parts, ',')) patterns.push_back(part_named(name).pattern);
  return join(patterns, "|");
}

std::string full_method(const std::string& part) { return part_named(part).full_method; }

std::size_t numbers_at_rank_1(const std::string& parts, const Weights& weights) {
  std::size_t numbers = 0;
  for (const std::string& name : split(parts, ',')) {
    const std::regex regex(part_named(name).pattern);
    const std::size_t before = numbers;
    for (const auto& [weight, value] : weights) {
      if (!std::regex_search(weight, regex)) continue;
      numbers += value.shape()[0] + value.shape()[1];
    }
    if (numbers == before) {
      throw std::invalid_argument("where: no weight of the model is the part '" + name +
                                  "' alone; leave it out, or take a model that keeps it apart");
    }
  }
  return numbers;
}

}  // namespace gradview
