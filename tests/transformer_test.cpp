// BERT, GPT-2 and Llama, tiny: every gradient against central differences, in double, and what is
// kept, computed and collected.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "gradview/core/linalg.hpp"
#include "gradview/core/parallel.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/architectures.hpp"
#include "gradview/models/classifier.hpp"
#include "gradview/models/language_model.hpp"
#include "numeric_gradient.hpp"

namespace gradview {
namespace {

using Gradients = std::map<std::string, Matrix>;

void size(Transformer& t) {
  t.vocabulary = 11;
  t.positions = 9;
  t.width = 8;
  t.hidden = 6;
  t.layers = 2;
  t.heads = t.kv_heads = 2;
  t.head_width = 4;
  t.eps = 0.1;  // so that no derivative of higher order is large
}

Weights random_weights(const std::vector<WeightSpec>& specs) {
  Weights weights;
  for (const WeightSpec& spec : specs) {
    Matrix w = normal(spec.shape, 0.4, Stream(2, Purpose::test, spec.name));
    if (spec.name.find("orm.weight") != spec.name.npos || spec.name.find("ln_") != spec.name.npos) {
      for (double& x : w) x += 1;
    }
    weights.add(spec.name, std::move(w));
  }
  return weights;
}

Names all_names(const std::vector<WeightSpec>& specs) {
  Names names;
  for (const WeightSpec& spec : specs) names.insert(spec.name);
  return names;
}

// Three sequences: padded on the left, on the right, and not.
const std::vector<std::int32_t> ids = {0, 0, 3, 7, 10, 1, 5, 5, 2, 0, 8, 4, 9, 6, 1};
const std::vector<std::uint8_t> mask = {0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1};

struct Classified {
  Classifier model{bert(), 3};
  Tokens tokens;
  std::vector<std::int32_t> labels = {2, 0, 1};
  Training training;
  Weights weights;

  explicit Classified(Pooling pooling, double dropout = 0) {
    size(model.trunk);
    model.pooling = pooling;
    model.dropout = model.trunk.embedding_dropout = model.trunk.attention_dropout =
        model.trunk.hidden_dropout = dropout;
    const std::vector<std::int32_t> types = {0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1};
    tokens = pack(ids, mask, 5, pooling == Pooling::cls, types);
    weights = random_weights(model.weights());
    training.trained = all_names(model.weights());
    if (dropout > 0) training.dropout = Dropout{.seed = 4, .step = 3};
  }
  Score run(const Training& how, const Tokens& some, const std::vector<std::int32_t>& targets,
            const Collect& collect) const {
    return model.loss_and_gradients(weights, some, targets, how, collect);
  }
};

struct Predicted {
  LanguageModel model;
  Tokens tokens = pack(ids, mask, 5);
  std::vector<std::int32_t> labels = next_ids(tokens);
  Training training;
  Weights weights;

  Predicted(Transformer trunk, bool tied, double dropout = 0) : model{std::move(trunk), tied} {
    size(model.trunk);
    if (model.trunk.rope) {
      model.trunk.heads = 3;
      model.trunk.kv_heads = 1;
      model.trunk.head_width = 4;
    }
    model.trunk.embedding_dropout = model.trunk.attention_dropout = model.trunk.hidden_dropout =
        dropout;
    weights = random_weights(model.weights());
    training.trained = all_names(model.weights());
    if (dropout > 0) training.dropout = Dropout{.seed = 4, .step = 3};
  }
  Score run(const Training& how, const Tokens& some, const std::vector<std::int32_t>& targets,
            const Collect& collect) const {
    return model.loss_and_gradients(weights, some, targets, how, collect);
  }
};

Collect into(Gradients& all) {
  return [&](const std::string& name, const Gradient& g) {
    EXPECT_FALSE(all.contains(name)) << name << " was collected before";
    all[name] = g.materialize();
  };
}

template <class Task>
Gradients gradients(const Task& task, const Training& training, Score* score = nullptr) {
  Gradients all;
  const Score got = task.run(training, task.tokens, task.labels, into(all));
  if (score) *score = got;
  return all;
}

template <class Task>
void expect_gradients(Task task) {
  const Gradients all = gradients(task, task.training);
  EXPECT_EQ(all.size(), task.training.trained.size());
  Training none = task.training;
  none.trained.clear();
  const Loss loss = [&] { return task.run(none, task.tokens, task.labels, {}).loss; };
  for (const auto& [name, g] : all) EXPECT_TRUE(is_gradient(g, task.weights[name], loss)) << name;
}

TEST(Classifier, EveryGradientIsThatOfTheLoss) {
  expect_gradients(Classified(Pooling::cls));
  expect_gradients(Classified(Pooling::mean));
  expect_gradients(Classified(Pooling::cls, 0.3));
  expect_gradients(Classified(Pooling::mean, 0.3));
}

TEST(LanguageModel, EveryGradientIsThatOfTheLoss) {
  expect_gradients(Predicted(gpt2(), true));
  expect_gradients(Predicted(gpt2(), true, 0.3));
  expect_gradients(Predicted(llama(), true));
  expect_gradients(Predicted(llama(), false));
  expect_gradients(Predicted(llama(), false, 0.3));
}

// Any one weight alone has the gradient that it has among all, and is the only one collected.
template <class Task>
void expect_alone(const Task& task) {
  Score score;
  const Gradients all = gradients(task, task.training, &score);
  for (const auto& [name, g] : all) {
    Training alone = task.training;
    alone.trained = {name};
    Score same;
    const Gradients one = gradients(task, alone, &same);
    ASSERT_EQ(one.size(), 1U) << name;
    EXPECT_EQ(one.begin()->first, name);
    EXPECT_EQ(one.begin()->second, g) << name;
    EXPECT_EQ(same.loss, score.loss) << name;
  }
}

TEST(Transformer, GivesAWeightAloneTheGradientThatItHasAmongAll) {
  expect_alone(Classified(Pooling::cls, 0.3));
  expect_alone(Classified(Pooling::mean));
  expect_alone(Predicted(gpt2(), true, 0.3));
  expect_alone(Predicted(llama(), false));
}

// Parts of a batch, weighted by what they count, add up to the whole, dropout included.
template <class Task, class Weight>
void expect_parts(const Task& task, const Weight& weight) {
  Score whole;
  const Gradients all = gradients(task, task.training, &whole);
  Gradients sums;
  double loss = 0;
  for (std::size_t b = 0; b < 3; ++b) {
    const Tokens one = part(task.tokens, b, 1);
    const auto [labels, share] = weight(one, b);
    const double s = share;
    const Collect add = [&](const std::string& name, const Gradient& g) {
      if (!sums.contains(name)) sums[name] = zeros(g.shape());
      axpy(sums[name], s, g.materialize());
    };
    loss += share * task.run(task.training, one, labels, add).loss;
  }
  EXPECT_NEAR(loss, whole.loss, 1e-14);
  for (const auto& [name, g] : all) {
    for (std::size_t i = 0; i < g.size(); ++i) {
      EXPECT_NEAR(sums[name].data()[i], g.data()[i], 1e-14 * std::max(1.0, std::abs(g.data()[i])))
          << name;
    }
  }
}

TEST(Transformer, PartsOfABatchAddUpToTheWhole) {
  for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
    const Classified task(pooling, 0.3);
    expect_parts(task, [&](const Tokens&, std::size_t b) {
      return std::pair(std::vector<std::int32_t>{task.labels[b]}, 1.0 / 3);
    });
  }
  const Predicted task(gpt2(), true, 0.3);
  expect_parts(task, [](const Tokens& one, std::size_t) {
    return std::pair(next_ids(one), static_cast<double>(one.rows() - 1) / 9);
  });
}

TEST(Classifier, LogitsAreThoseOfTheLoss) {
  for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
    const Classified task(pooling);
    Matrix logits = task.model.logits(task.weights, task.tokens);
    Score score;
    gradients(task, task.training, &score);
    EXPECT_NEAR(cross_entropy_rows(logits, task.labels, 1).loss / 3, score.loss, 1e-15);
  }
}

TEST(LanguageModel, LogitsAreThoseOfTheLoss) {
  for (const bool tied : {false, true}) {
    const Predicted task(llama(), tied);
    Matrix logits = task.model.logits(task.weights, task.tokens);
    Score score;
    gradients(task, task.training, &score);
    EXPECT_EQ(task.model.loss(task.weights, task.tokens, task.labels).loss, score.loss);
    EXPECT_NEAR(cross_entropy_rows(logits, task.labels, 1).loss / 9, score.loss, 1e-14);
  }
}

TEST(Transformer, PaddingIsAsIfItWereNotThere) {
  const Predicted task(gpt2(), true);
  const Matrix all = task.model.logits(task.weights, task.tokens);
  std::vector<std::int32_t> shifted(ids.begin() + 5, ids.begin() + 10);
  const Matrix alone =
      task.model.logits(task.weights, pack(shifted, std::span(mask).subspan(5, 5), 5));
  ASSERT_EQ(alone.shape()[0], 4U);
  for (std::size_t i = 0; i < alone.size(); ++i) {
    EXPECT_NEAR(alone.data()[i], all.data()[3 * 11 + i], 1e-14);
  }
}

TEST(Transformer, FutureTokensChangeNothingBeforeThem) {
  Predicted task(llama(), false);
  const Matrix before = task.model.logits(task.weights, task.tokens);
  task.tokens.ids.back() = 3;
  const Matrix after = task.model.logits(task.weights, task.tokens);
  const std::size_t kept = before.size() - 11;
  EXPECT_TRUE(std::equal(before.data(), before.data() + kept, after.data()));
  EXPECT_FALSE(
      std::equal(before.data() + kept, before.data() + before.size(), after.data() + kept));
}

TEST(Transformer, GivesTheSameBitsForAnyNumberOfThreads) {
  Predicted task(llama(), true, 0.2);
  task.model.trunk.positions = 200;
  task.model.trunk.width = 48;
  task.model.trunk.head_width = 16;
  task.model.trunk.hidden = 160;
  task.weights = random_weights(task.model.weights());
  std::vector<std::int32_t> long_ids;
  Stream stream(7, Purpose::test);
  for (std::size_t i = 0; i < 4 * 170; ++i) {
    long_ids.push_back(static_cast<std::int32_t>(stream.below(11)));
  }
  task.tokens = pack(long_ids, std::vector<std::uint8_t>(long_ids.size(), 1), 170);
  task.labels = next_ids(task.tokens);
  const Gradients one = gradients(task, task.training);
  set_threads(3);
  const Gradients three = gradients(task, task.training);
  set_threads(1);
  EXPECT_EQ(one, three);
}

TEST(Transformer, SaysWhatIsWrong) {
  const Classified task(Pooling::cls);
  Training unknown = task.training;
  unknown.trained = {"classifer.weight"};
  try {
    task.run(unknown, task.tokens, task.labels, {});
    ADD_FAILURE() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "the model has no weight 'classifer.weight'; did you mean 'classifier.weight'?");
  }
  EXPECT_THROW(task.run(task.training, task.tokens, {0, 1}, {}), std::invalid_argument);
  EXPECT_THROW(task.run(task.training, task.tokens, {0, 1, 3}, {}), std::invalid_argument);
  EXPECT_THROW(task.run(task.training, task.tokens, {-1, -1, -1}, {}), std::invalid_argument);
  Tokens tokens = task.tokens;
  tokens.ids[2] = 11;
  EXPECT_THROW(task.model.logits(task.weights, tokens), std::invalid_argument);
}

}  // namespace
}  // namespace gradview
