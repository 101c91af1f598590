// The layers of transformers, each against its formula and central differences, in double.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "gradview/core/gradient.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/rng.hpp"
#include "gradview/models/activation.hpp"
#include "gradview/models/attention.hpp"
#include "gradview/models/embedding.hpp"
#include "gradview/models/norm.hpp"
#include "gradview/models/rope.hpp"
#include "gradview/models/tokens.hpp"
#include "numeric_gradient.hpp"

namespace gradview {
namespace {

Matrix draw(Shape shape, std::size_t which) {
  return normal(shape, 1, Stream(1, Purpose::test, "layers", which));
}

TEST(Activations, GradientsAreThoseOfTheLoss) {
  for (const Activation kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    Matrix z = draw({4, 9}, 1), u = draw({4, 9}, 2);
    const Matrix towards = draw({4, 9}, 3);
    Matrix dz = towards;
    times_derivative(kind, z, dz);
    EXPECT_TRUE(is_gradient(dz, z, [&] { return dot(activated(kind, z), towards); }));
    Matrix in_place = z;
    activate(kind, in_place);
    EXPECT_EQ(in_place, activated(kind, z));
    dz = towards;
    const Matrix du = gated_gradient(kind, z, u, dz);
    const Loss loss = [&] { return dot(gated(kind, z, u), towards); };
    EXPECT_TRUE(is_gradient(dz, z, loss));
    EXPECT_TRUE(is_gradient(du, u, loss));
  }
}

TEST(Activations, AreTheirFormulas) {
  for (const double z : {-7.5, -1.0, -1e-3, 0.0, 0.3, 2.0, 8.0}) {
    const auto value = [&](Activation kind) { return activated(kind, matrix({{z}}))(0, 0); };
    const double cubic = z + 0.044715 * z * z * z, eps = 1e-15 * std::max(1.0, std::abs(z));
    EXPECT_NEAR(value(Activation::gelu), z * (1 + std::erf(z / std::sqrt(2.0))) / 2, eps);
    EXPECT_NEAR(value(Activation::gelu_tanh), z * (1 + std::tanh(std::sqrt(2 / M_PI) * cubic)) / 2,
                eps);
    EXPECT_NEAR(value(Activation::silu), z / (1 + std::exp(-z)), eps);
  }
}

TEST(Norm, GradientsAreThoseOfTheLoss) {
  for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
    Matrix x = draw({5, 19}, 1), gamma = draw({1, 19}, 2), beta = draw({1, 19}, 3);
    const Matrix towards = draw({5, 19}, 4);
    const Norm norm{kind, 1e-3, &gamma, kind == NormKind::layer ? &beta : nullptr};
    Norm::Kept kept, moved;
    const Matrix y = norm.forward(x, &kept);
    EXPECT_EQ(norm.forward(x, nullptr), y);
    EXPECT_EQ(norm.forward(Matrix(x), &moved), y);
    EXPECT_EQ(norm.forward(Matrix(x), nullptr), y);
    EXPECT_EQ(moved.x, kept.x);
    EXPECT_EQ(norm.output(kept), y);
    const Loss loss = [&] { return dot(norm.forward(x, nullptr), towards); };
    EXPECT_TRUE(is_gradient(norm.input_gradient(kept, towards), x, loss));
    EXPECT_TRUE(is_gradient(Norm::scale_gradient(kept, towards), gamma, loss));
    EXPECT_TRUE(kind == NormKind::rms || is_gradient(fold_rows(towards, 1), beta, loss));
  }
}

TEST(Norm, IsItsFormula) {
  const Matrix x = matrix({{1, 2, 6}}), gamma = matrix({{2, 1, -1}}), beta = matrix({{0, 1, 5}});
  const double layer = 1 / std::sqrt(14.0 / 3 + 0.25), rms = 1 / std::sqrt(41.0 / 3 + 0.25);
  const Matrix y = Norm{NormKind::layer, 0.25, &gamma, &beta}.forward(x, nullptr);
  const Matrix z = Norm{NormKind::rms, 0.25, &gamma}.forward(x, nullptr);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(y(0, i), gamma(0, i) * (x(0, i) - 3) * layer + beta(0, i), 1e-15);
    EXPECT_NEAR(z(0, i), gamma(0, i) * x(0, i) * rms, 1e-15);
  }
  EXPECT_THROW((Norm{NormKind::rms, 0, &x}.forward(draw({2, 4}, 1), nullptr)),
               std::invalid_argument);
}

TEST(Rope, TurnsPairsHalfAHeadApart) {
  const Rope rope{.theta = 100, .factor = 2};
  const Rope::Table table = rope.table(8, 4);
  const std::vector<std::int32_t> positions = {0, 3, 7};
  const Matrix x = draw({3, 10}, 1);
  Matrix y = x;
  rotate(y, 1, 2, table, positions);
  for (std::size_t t = 0; t < 3; ++t) {
    EXPECT_EQ(y(t, 0), x(t, 0));
    EXPECT_EQ(y(t, 9), x(t, 9));
    for (const std::size_t head : {1, 5}) {
      for (const std::size_t i : {0, 1}) {
        const double angle = positions[t] / 2.0 * (i == 0 ? 1 : 0.1);  // 100^(−2/4)
        const double a = x(t, head + i), b = x(t, head + i + 2);
        EXPECT_NEAR(y(t, head + i), a * std::cos(angle) - b * std::sin(angle), 1e-14);
        EXPECT_NEAR(y(t, head + i + 2), b * std::cos(angle) + a * std::sin(angle), 1e-14);
      }
    }
  }
  rotate(y, 1, 2, table, positions, true);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y.data()[i], x.data()[i], 1e-14);
}

TEST(Embedding, AddsRowsAndTheirGradients) {
  Matrix table = draw({5, 3}, 1);
  const std::vector<std::int32_t> ids = {4, 0, 4};
  const Matrix towards = draw({3, 3}, 2);
  const auto output = [&] {
    Matrix y = zeros({3, 3});
    add_embedding(y, table, ids, "token");
    return y;
  };
  Matrix g = zeros({5, 3});
  add_embedding_gradient(g, towards, ids);
  EXPECT_TRUE(is_gradient(g, table, [&] { return dot(output(), towards); }));
  const Gradient few = embedding_gradient(5, towards, ids);
  EXPECT_EQ(few.materialize(), g);
  EXPECT_TRUE(few.factored());  // two rows of the five
  Matrix frozen = zeros({5, 3});
  add_embedding_gradient(frozen, towards, ids, 4);
  EXPECT_EQ(embedding_gradient(5, towards, ids, 4).materialize(), frozen);
  EXPECT_TRUE(embedding_gradient(5, towards, std::vector<std::int32_t>(3, 4), 4).empty());
  Matrix y = zeros({1, 3});
  EXPECT_THROW(add_embedding(y, table, std::vector<std::int32_t>{5}, "token"),
               std::invalid_argument);
  EXPECT_THROW(add_embedding(y, table, std::vector<std::int32_t>{-1}, "token"),
               std::invalid_argument);
}

struct Case {
  Attention attention;
  std::vector<Span> spans;
  Matrix q, k, v;

  Matrix output(Matrix* normalizers = nullptr) const {
    Matrix o = zeros({q.shape()[0], attention.heads * attention.width});
    attention.forward(spans, {q.data(), q.shape()[1]}, {k.data(), k.shape()[1]},
                      {v.data(), v.shape()[1]}, o, normalizers);
    return o;
  }
};

// Two spans of 3 and 5 keys, the second of which has a silent row before it.
Case small(bool causal, double dropout) {
  Attention attention{.heads = 4, .kv_heads = 2, .width = 3, .causal = causal};
  static const Dropout keys{.seed = 5, .step = 2};
  attention.dropout = DropoutMask(&keys, dropout, "p", 6);
  const std::vector<Span> spans = causal ? std::vector<Span>{{0, 3, 0, 3, 10}, {3, 6, 3, 6, 13}}
                                         : std::vector<Span>{{0, 3, 0, 3, 10}, {3, 6, 4, 5, 13}};
  return {attention, spans, draw({9, 12}, 1), draw({9, 6}, 2), draw({9, 6}, 3)};
}

TEST(Attention, IsTheSoftmaxOfItsScores) {
  for (const bool causal : {false, true}) {
    const Case c = small(causal, 0);
    const Matrix o = c.output();
    for (const Span& span : c.spans) {
      for (std::size_t i = 0; i < span.queries; ++i) {
        for (std::size_t h = 0; h < 4; ++h) {
          double sum = 0, out[3] = {};
          for (std::size_t j = 0; j < (causal ? i + 1 : span.keys); ++j) {
            double score = 0;
            for (std::size_t e = 0; e < 3; ++e) {
              score += c.q(span.query + i, 3 * h + e) * c.k(span.key + j, 3 * (h / 2) + e);
            }
            const double p = std::exp(score / std::sqrt(3.0));
            sum += p;
            for (std::size_t e = 0; e < 3; ++e) out[e] += p * c.v(span.key + j, 3 * (h / 2) + e);
          }
          for (std::size_t e = 0; e < 3; ++e) {
            EXPECT_NEAR(o(span.query + i, 3 * h + e), out[e] / sum, 1e-14);
          }
        }
      }
    }
  }
}

TEST(Attention, GradientsAreThoseOfTheLoss) {
  for (const bool causal : {false, true}) {
    for (const double dropout : {0.0, 0.4}) {
      Case c = small(causal, dropout);
      const Matrix towards = draw({9, 12}, 4);
      Matrix normalizers;
      c.output(&normalizers);
      Matrix dq = zeros({9, 12}), dk = zeros({9, 6}), dv = zeros({9, 6});
      c.attention.backward(c.spans, {c.q.data(), 12}, {c.k.data(), 6}, {c.v.data(), 6}, normalizers,
                           towards, {dq.data(), 12}, {dk.data(), 6}, {dv.data(), 6});
      const Loss loss = [&] { return dot(c.output(), towards); };
      EXPECT_TRUE(is_gradient(dq, c.q, loss)) << causal << dropout;
      EXPECT_TRUE(is_gradient(dk, c.k, loss)) << causal << dropout;
      EXPECT_TRUE(is_gradient(dv, c.v, loss)) << causal << dropout;
    }
  }
}

// Longer than a block of queries: what the blocks give together is what the queries give one by one.
TEST(Attention, BlocksOfQueriesGiveWhatSingleOnesDo) {
  const std::size_t n = 300;
  Case whole{{.heads = 1, .kv_heads = 1, .width = 4, .causal = true},
             {{0, n, 0, n, 0}},
             draw({n, 4}, 1),
             draw({n, 4}, 2),
             draw({n, 4}, 3)};
  Case singly = whole;
  singly.attention.causal = false;
  singly.spans.clear();
  for (std::size_t i = 0; i < n; ++i) singly.spans.push_back({i, 1, 0, i + 1, i});
  const Matrix towards = draw({n, 4}, 4);
  const auto gradients = [&](const Case& c, Matrix* o) {
    std::vector<Matrix> sums(3, zeros({n, 4}));
    Matrix normalizers;
    *o = c.output(&normalizers);
    for (const Span& span : c.spans) {
      std::vector<Matrix> d(3, zeros({n, 4}));
      c.attention.backward({span}, {c.q.data(), 4}, {c.k.data(), 4}, {c.v.data(), 4}, normalizers,
                           towards, {d[0].data(), 4}, {d[1].data(), 4}, {d[2].data(), 4});
      for (std::size_t which = 0; which < 3; ++which) axpy(sums[which], 1, d[which]);
    }
    return sums;
  };
  Matrix o, p;
  const std::vector<Matrix> a = gradients(whole, &o), b = gradients(singly, &p);
  for (std::size_t i = 0; i < o.size(); ++i) EXPECT_NEAR(o.data()[i], p.data()[i], 1e-13);
  for (std::size_t which = 0; which < 3; ++which) {
    for (std::size_t i = 0; i < o.size(); ++i) {
      ASSERT_NEAR(a[which].data()[i], b[which].data()[i], 1e-12) << which;  // sums of 300 terms
    }
  }
}

TEST(DropoutMask, KeepsTheShareItShouldAndTheMean) {
  const Dropout keys{.seed = 3, .step = 1};
  const double p = 0.3;
  Matrix y = zeros({400, 101});
  y.fill(1);
  DropoutMask(&keys, p, "x", 101).apply(y, 0);
  double kept = 0;
  for (const double entry : y) {
    EXPECT_TRUE(entry == 0 || std::abs(entry - 1 / (1 - p)) < 1e-15) << entry;
    kept += entry != 0;
  }
  const double n = static_cast<double>(y.size());
  EXPECT_NEAR(kept / n, 1 - p, 5 * std::sqrt(p * (1 - p) / n));

  Matrix other = zeros({400, 101});
  other.fill(1);
  DropoutMask(&keys, p, "y", 101).apply(other, 0);
  double both = 0;
  for (std::size_t i = 0; i < y.size(); ++i) both += y.data()[i] != 0 && other.data()[i] != 0;
  EXPECT_NEAR(both / n, (1 - p) * (1 - p), 5 * std::sqrt(0.25 / n));

  Matrix tail = zeros({300, 101});
  tail.fill(1);
  DropoutMask(&keys, p, "x", 101).apply(tail, 100);
  EXPECT_EQ(tail, rows(y, 100, 300));
  Matrix same = y;
  DropoutMask(nullptr, p, "x", 101).apply(same, 0);
  EXPECT_EQ(same, y);
}

TEST(Tokens, KeepWhatTheMaskKeepsAtItsPlace) {
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<std::uint8_t> mask = {0, 1, 1, 1, 1, 1, 0, 0};
  const Tokens tokens = pack(ids, mask, 4);
  EXPECT_EQ(tokens.ids, (std::vector<std::int32_t>{2, 3, 4, 5, 6}));
  EXPECT_EQ(tokens.positions, (std::vector<std::int32_t>{1, 2, 3, 0, 1}));
  EXPECT_EQ(next_ids(tokens), (std::vector<std::int32_t>{3, 4, no_label, 6, no_label}));
  const Tokens first = pack(ids, mask, 4, true);
  EXPECT_EQ(first.rows(), 6U);
  EXPECT_EQ(first.sequences[0].silent, 1U);
  EXPECT_EQ(first.sequences[1].silent, 0U);
  const Tokens second = part(tokens, 1, 1);
  EXPECT_EQ(second.ids, (std::vector<std::int32_t>{5, 6}));
  EXPECT_EQ(second.first_row, 3U);
  EXPECT_EQ(second.sequences[0].first, 0U);
  const std::vector<std::uint8_t> none(4, 0);
  EXPECT_THROW(pack(std::span(ids).first(4), none, 4), std::invalid_argument);
  EXPECT_THROW(pack(ids, none, 4), std::invalid_argument);
}

}  // namespace
}  // namespace gradview
