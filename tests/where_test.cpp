// The parts of a transformer are found by the names of three architectures, and none twice.
#include <gtest/gtest.h>

#include <map>
#include <regex>

#include "expect_error.hpp"
#include "gradview/experiments/where/parts.hpp"
#include "gradview/models/architectures.hpp"

namespace gradview {
namespace {

constexpr std::size_t kWidth = 8, kHidden = 20, kLayers = 2;

Weights weights_of(Transformer trunk) {
  trunk.vocabulary = 11;
  trunk.positions = 16;
  trunk.types = trunk.causal ? 0 : 2;
  trunk.width = kWidth;
  trunk.hidden = kHidden;
  trunk.layers = kLayers;
  trunk.heads = trunk.kv_heads = 2;
  trunk.head_width = 4;
  Weights weights;
  for (const WeightSpec& spec : trunk.weights()) weights.add(spec.name, zeros(spec.shape));
  return weights;
}

std::size_t found(const std::string& part, const Weights& weights) {
  const std::regex regex(pattern_of(part));
  std::size_t count = 0;
  for (const auto& [name, value] : weights) count += std::regex_search(name, regex);
  return count;
}

TEST(Where, FindsTheSamePartsInBertAndLlama) {
  for (const Transformer& trunk : {bert(), llama()}) {
    const Weights weights = weights_of(trunk);
    for (const char* part : {"q", "k", "v", "o"}) {
      EXPECT_EQ(found(part, weights), kLayers) << part;
      EXPECT_EQ(numbers_at_rank_1(part, weights), kLayers * 2 * kWidth) << part;
    }
    EXPECT_EQ(numbers_at_rank_1("q,v", weights), kLayers * 4 * kWidth);
    EXPECT_EQ(found("embed", weights), 1);
  }
  EXPECT_EQ(numbers_at_rank_1("mlp", weights_of(bert())), kLayers * 2 * (kWidth + kHidden));
  EXPECT_EQ(numbers_at_rank_1("mlp", weights_of(llama())), kLayers * 3 * (kWidth + kHidden));
  EXPECT_EQ(found("norm", weights_of(bert())), 2 * (2 * kLayers + 1));  // scales and shifts
  EXPECT_EQ(found("norm", weights_of(llama())), 2 * kLayers + 1);
}

TEST(Where, FindsNoWeightTwice) {
  for (const Transformer& trunk : {bert(), llama(), gpt2()}) {
    std::map<std::string, int> seen;
    for (const char* part : {"q", "k", "v", "o", "mlp", "norm", "embed"}) {
      const std::regex regex(pattern_of(part));
      for (const auto& [name, value] : weights_of(trunk)) {
        seen[name] += std::regex_search(name, regex);
      }
    }
    for (const auto& [name, times] : seen) EXPECT_LE(times, 1) << name;
  }
}

TEST(Where, SaysWhatIsNotThere) {
  expect_error<std::invalid_argument>("no part 'w'", [] { pattern_of("q,w"); });
  const Weights weights = weights_of(gpt2());
  EXPECT_EQ(numbers_at_rank_1("o", weights), kLayers * 2 * kWidth);
  expect_error<std::invalid_argument>("the part 'q' alone",
                                      [&] { numbers_at_rank_1("q", weights); });
}

}  // namespace
}  // namespace gradview
