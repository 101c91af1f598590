// Shifted sparse attention, in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/io/hf_config.hpp"
#include "gradview/models/architectures.hpp"
#include "gradview/models/language_model.hpp"
#include "numeric_gradient.hpp"

namespace gradview {
namespace {

struct Sparse {
  LanguageModel model;
  Tokens tokens;
  std::vector<std::int32_t> labels;
  Weights weights;
  Training training;

  Sparse(std::size_t heads, std::size_t kv_heads, std::size_t group, std::size_t length,
         Transformer trunk = llama(), double dropout = 0)
      : model{std::move(trunk), true} {
    Transformer& t = model.trunk;
    t.vocabulary = 13;
    t.positions = length;
    t.width = 6;
    t.hidden = 5;
    t.layers = 2;
    t.heads = heads;
    t.kv_heads = kv_heads;
    t.head_width = 4;
    t.eps = 0.1;  // so that no derivative of higher order is large
    if (t.rope) t.rope->factor = 2;
    t.attention_dropout = dropout;
    t.group = group;
    std::vector<std::int32_t> ids;
    Stream stream(3, Purpose::test);
    for (std::size_t i = 0; i < 2 * length; ++i) {
      ids.push_back(static_cast<std::int32_t>(stream.below(13)));
    }
    std::vector<std::uint8_t> mask(ids.size(), 1);
    mask[0] = 0;  // the first sequence is one shorter, from position 1 on
    tokens = pack(ids, mask, length);
    labels = next_ids(tokens);
    for (const WeightSpec& spec : model.weights()) {
      Matrix w = normal(spec.shape, 0.4, Stream(2, Purpose::test, spec.name));
      if (spec.stored == Stored::vector) {
        for (double& x : w) x += 1;
      }
      weights.add(spec.name, std::move(w));
      training.trained.insert(spec.name);
    }
    if (dropout > 0) training.dropout = Dropout{.seed = 4, .step = 3};
  }
  Score score(const Training& how, std::map<std::string, Matrix>* gradients = nullptr) const {
    return model.loss_and_gradients(weights, tokens, labels, how,
                                    [&](const std::string& name, const Gradient& g) {
                                      if (gradients) (*gradients)[name] = g.materialize();
                                    });
  }
  Matrix states() const {  // as training has them
    Transformer::Pass pass;
    return model.trunk.forward(weights, tokens, false, &training, &pass);
  }
};

TEST(ShiftedSparseAttention, CutsSequencesAtShiftedBorders) {
  Tokens tokens;
  tokens.sequences = {{0, 8}, {8, 4}, {12, 11}};
  tokens.ids.resize(23);
  const auto cuts = [&](std::size_t group, bool shifted) {
    std::vector<std::size_t> counts;
    std::size_t next = 0;
    for (const Span& span : Rows{tokens}.groups(group, shifted)) {
      EXPECT_EQ(span.query, next);
      EXPECT_EQ(span.key, next);
      EXPECT_EQ(span.number, next);
      EXPECT_EQ(span.keys, span.queries);
      next += span.queries;
      counts.push_back(span.queries);
    }
    EXPECT_EQ(next, 23U);
    return counts;
  };
  EXPECT_EQ(cuts(4, false), (std::vector<std::size_t>{4, 4, 4, 4, 4, 3}));
  EXPECT_EQ(cuts(4, true), (std::vector<std::size_t>{2, 4, 2, 4, 2, 4, 4, 1}));
  EXPECT_EQ(cuts(5, true), (std::vector<std::size_t>{2, 5, 1, 4, 2, 5, 4}));
  EXPECT_EQ(cuts(11, true), (std::vector<std::size_t>{8, 4, 11}));
}

// By loops: which keys a query sees is written out as a mask.
TEST(ShiftedSparseAttention, IsTheMaskedAttentionOfItsFormula) {
  const std::size_t n = 11, heads = 4, kv = 2, w = 3, group = 4;
  const Matrix q = normal({n, heads * w}, 1, Stream(1, Purpose::test, "q"));
  const Matrix k = normal({n, kv * w}, 1, Stream(1, Purpose::test, "k"));
  const Matrix v = normal({n, kv * w}, 1, Stream(1, Purpose::test, "v"));
  Tokens tokens;
  tokens.sequences = {{0, n}};
  tokens.ids.resize(n);
  Matrix o = zeros({n, heads * w});
  for (const bool shifted : {false, true}) {
    Attention attention{.heads = heads, .kv_heads = kv, .width = w, .causal = true};
    attention.from_head = shifted ? 2 : 0;
    attention.to_head = shifted ? 4 : 2;
    attention.forward(Rows{tokens}.groups(group, shifted), {q.data(), heads * w},
                      {k.data(), kv * w}, {v.data(), kv * w}, o, nullptr);
  }
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t i = 0; i < n; ++i) {
      double sum = 0, out[3] = {};
      for (std::size_t j = 0; j <= i; ++j) {
        const std::size_t shift = h < 2 ? 0 : group / 2;  // borders at multiples of 4, less 2
        if ((i + shift) / group != (j + shift) / group) continue;
        double score = 0;
        for (std::size_t e = 0; e < w; ++e) score += q(i, h * w + e) * k(j, h / 2 * w + e);
        const double p = std::exp(score / std::sqrt(3.0));
        sum += p;
        for (std::size_t e = 0; e < w; ++e) out[e] += p * v(j, h / 2 * w + e);
      }
      for (std::size_t e = 0; e < w; ++e) EXPECT_NEAR(o(i, h * w + e), out[e] / sum, 1e-14);
    }
  }
}

TEST(ShiftedSparseAttention, EveryGradientIsThatOfTheLoss) {
  const auto check = [](Sparse task) {
    std::map<std::string, Matrix> all;
    task.score(task.training, &all);
    EXPECT_EQ(all.size(), task.training.trained.size());
    Training none = task.training;
    none.trained.clear();
    const Loss loss = [&] { return task.score(none).loss; };
    for (const auto& [name, g] : all) EXPECT_TRUE(is_gradient(g, task.weights[name], loss)) << name;
  };
  check(Sparse(2, 2, 4, 8));
  check(Sparse(4, 2, 4, 10));  // each half has a key–value head of its own
  check(Sparse(4, 1, 4, 7));   // the halves share one
  check(Sparse(3, 1, 3, 8));
  check(Sparse(2, 2, 4, 9, gpt2()));
  check(Sparse(2, 1, 4, 9, llama(), 0.3));
}

TEST(ShiftedSparseAttention, LetsNoTokenSeeALaterOne) {
  for (const std::size_t length : {8, 11}) {
    Sparse task(4, 2, 4, length);
    const Matrix before = task.states();
    task.tokens.ids.back() = (task.tokens.ids.back() + 1) % 13;
    const Matrix after = task.states();
    const std::size_t kept = before.size() - task.model.trunk.width;
    EXPECT_TRUE(std::equal(before.data(), before.data() + kept, after.data()));
    EXPECT_FALSE(
        std::equal(before.data() + kept, before.data() + before.size(), after.data() + kept));
  }
}

TEST(ShiftedSparseAttention, IsFullWhereAGroupHoldsTheSequenceAndOutsideTraining) {
  for (const std::size_t kv_heads : {1, 2, 4}) {
    for (const bool sparse : {false, true}) {
      Sparse task(4, kv_heads, sparse ? 4 : 9, 9);
      std::map<std::string, Matrix> in_groups, in_full;
      const double loss = task.score(task.training, &in_groups).loss;
      const double evaluated = task.model.loss(task.weights, task.tokens, task.labels).loss;
      task.model.trunk.group.reset();
      EXPECT_EQ(task.score(task.training, &in_full).loss == loss, !sparse);
      EXPECT_EQ(in_full == in_groups, !sparse);
      EXPECT_EQ(task.model.loss(task.weights, task.tokens, task.labels).loss, evaluated);
    }
  }
}

TEST(RopeScaling, IsWrittenInTheFormOfTheConfig) {
  const std::string sizes =
      R"("model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 11,
         "num_hidden_layers": 1, "intermediate_size": 6, "max_position_embeddings": 64)";
  for (const std::string rope :
       {R"("rope_theta": 500)", R"("rope_theta": 500, "rope_scaling": null)",
        R"("rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 2})",
        R"("rope_parameters": {"rope_type": "default", "rope_theta": 500})"}) {
    const std::string text = "{" + sizes + ", " + rope + "}";
    Transformer trunk = parse_hf_config("config.json", text).trunk;
    const bool scaled = rope.find("linear") != rope.npos;
    stretch(trunk, 4);
    EXPECT_EQ(trunk.positions, scaled ? 128U : 256U);
    const Transformer read =
        parse_hf_config("config.json", with_rope_scaling(text, 4, trunk.positions)).trunk;
    EXPECT_EQ(read.rope->factor, 4) << rope;
    EXPECT_EQ(read.rope->theta, 500) << rope;
    EXPECT_EQ(read.positions, trunk.positions) << rope;
  }
}

TEST(ShiftedSparseAttention, IsForCausalAttentionOnly) {
  Transformer encoder = bert();
  encoder.types = 0;
  const Sparse task(2, 2, 4, 8, encoder);
  expect_error<std::invalid_argument>("causal", [&] { task.states(); });
  const Sparse one(2, 2, 1, 8);
  expect_error<std::invalid_argument>("at least 2", [&] { one.states(); });
}

}  // namespace
}  // namespace gradview
