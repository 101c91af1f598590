#include "gradview/models/transformer.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "gradview/core/linalg.hpp"
#include "gradview/models/embedding.hpp"
#include "gradview/models/linear.hpp"

namespace gradview {
namespace {

std::string numbered(std::string pattern, std::size_t layer) {
  const std::size_t at = pattern.find('#');
  return at == pattern.npos ? pattern : pattern.replace(at, 1, std::to_string(layer));
}

// Stages: the tables 0, norm i at 2i + 1, layer i at 2i + 2.
constexpr std::size_t norm_stage(std::size_t i) { return 2 * i + 1; }
constexpr std::size_t layer_stage(std::size_t i) { return 2 * i + 2; }

}  // namespace

std::string Transformer::norm_name(std::size_t i) const {
  const std::size_t layer = (i - after_norm) / 2;
  if (i == (after_norm ? 0 : 2 * layers)) return modules.outer_norm;
  const bool of_attention = (i % 2 == 0) != after_norm;
  return numbered(of_attention ? modules.attention_norm : modules.hidden_norm, layer);
}

Norm Transformer::norm(std::size_t i, const Weights& weights) const {
  const std::string name = norm_name(i);
  const bool shifted = norm_kind == NormKind::layer;
  return {norm_kind, eps, &weights[name + ".weight"], shifted ? &weights[name + ".bias"] : nullptr};
}

SelfAttention Transformer::attention(std::size_t layer) const {
  const std::size_t q = heads * head_width, kv = kv_heads * head_width;
  SelfAttention made;
  for (const std::string& pattern : modules.attention_inputs) {
    const bool alone = modules.attention_inputs.size() == 1;
    const std::size_t outputs = alone ? q + 2 * kv : made.inputs.empty() ? q : kv;
    made.inputs.push_back(
        {numbered(pattern, layer), {outputs, width}, attention_bias, modules.stored});
  }
  made.output = {
      numbered(modules.attention_output, layer), {width, q}, output_bias, modules.stored};
  made.heads = heads;
  made.kv_heads = kv_heads;
  made.width = head_width;
  made.causal = causal;
  made.dropout = attention_dropout;
  made.longest = positions;
  made.group = group;
  return made;
}

FeedForward Transformer::feed_forward(std::size_t layer) const {
  FeedForward made{activation, {}, {}};
  for (const std::string& pattern : modules.hidden_inputs) {
    made.inputs.push_back({numbered(pattern, layer), {hidden, width}, hidden_bias, modules.stored});
  }
  made.output = {
      numbered(modules.hidden_output, layer), {width, hidden}, hidden_bias, modules.stored};
  return made;
}

std::vector<WeightSpec> Transformer::weights() const {
  std::vector<WeightSpec> all = {{modules.words + ".weight", {vocabulary, width}}};
  if (!rope) all.push_back({modules.positions + ".weight", {positions, width}});
  if (types > 0) all.push_back({modules.types + ".weight", {types, width}});
  for (std::size_t i = 0; i <= 2 * layers; ++i) {
    const Shape row{1, width};
    all.push_back({norm_name(i) + ".weight", row, Stored::vector, norm_stage(i)});
    if (norm_kind == NormKind::layer) {
      all.push_back({norm_name(i) + ".bias", row, Stored::vector, norm_stage(i)});
    }
    if (i == 2 * layers) break;
    const auto declare = [&](const auto& layer) {
      for (const Linear& linear : layer.inputs) linear.declare(all, layer_stage(i));
      layer.output.declare(all, layer_stage(i));
    };
    attends(i) ? declare(attention(i / 2)) : declare(feed_forward(i / 2));
  }
  return all;
}

bool Transformer::norm_trained(std::size_t i, const Names& trained) const {
  return trained.contains(norm_name(i) + ".weight") || trained.contains(norm_name(i) + ".bias");
}

bool Transformer::input_used(std::size_t i, const Names& trained) const {
  if (i == 2 * layers) return false;
  const auto any = [&](const auto& layer) {
    return std::any_of(layer.inputs.begin(), layer.inputs.end(),
                       [&](const Linear& linear) { return linear.weight_trained(trained); });
  };
  return attends(i) ? any(attention(i / 2)) : any(feed_forward(i / 2));
}

DropoutMask Transformer::embedding_mask(const Dropout* dropout) const {
  return {dropout, embedding_dropout, modules.words, width};
}

DropoutMask Transformer::layer_mask(const Dropout* dropout, std::size_t i) const {
  const std::string& pattern = attends(i) ? modules.attention_output : modules.hidden_output;
  return {dropout, hidden_dropout, numbered(pattern, i / 2), width};
}

Matrix Transformer::embed(const Weights& weights, const Tokens& tokens) const {
  Matrix x = zeros({tokens.rows(), width});
  add_embedding(x, weights[modules.words + ".weight"], tokens.ids, "token");
  const Matrix* table = rope ? nullptr : &weights[modules.positions + ".weight"];
  if (table) add_embedding(x, *table, tokens.positions, "position");
  if (types > 0) add_embedding(x, weights[modules.types + ".weight"], tokens.types, "token type");
  return x;
}

Matrix Transformer::forward(const Weights& weights, const Tokens& tokens, bool first_only,
                            const Training* training, Pass* pass) const {
  const Dropout* dropout = training ? training->dropout_or_null() : nullptr;
  Rope::Table turns;
  if (rope) {
    const std::int32_t last = *std::max_element(tokens.positions.begin(), tokens.positions.end());
    turns = rope->table(static_cast<std::size_t>(last) + 1, head_width);
  }
  const std::size_t lowest = pass ? pass->lowest : SIZE_MAX;
  if (pass) {
    pass->norms.resize(2 * layers + 1);
    pass->layers.resize(2 * layers);
  }
  Rows rows{tokens};
  Matrix r = embed(weights, tokens);
  if (!after_norm) embedding_mask(dropout).apply(r, tokens.first_row);
  for (std::size_t i = 0; i < 2 * layers; ++i) {
    const bool below = lowest < norm_stage(i);
    const bool keep_norm =
        pass && (below || norm_trained(i, training->trained) || input_used(i, training->trained));
    Norm::Kept* kept_norm = keep_norm ? &pass->norms[i] : nullptr;
    const Norm n = norm(i, weights);
    Matrix h = after_norm ? n.forward(std::move(r), kept_norm) : n.forward(r, kept_norm);
    if (after_norm && i == 0) embedding_mask(dropout).apply(h, tokens.first_row);
    const bool input_below = lowest < layer_stage(i);
    if (attends(i) && i + 2 == 2 * layers) rows.first_only = first_only;
    Matrix some;
    if (attends(i) && rows.first_only) some = gather_rows(after_norm ? h : r, rows.firsts());
    Matrix& to = some.size() > 0 ? some : (after_norm ? h : r);
    const DropoutMask mask = layer_mask(dropout, i);
    if (attends(i)) {
      SelfAttention::Kept kept;
      attention(i / 2).forward(weights, h, rows, rope ? &turns : nullptr, training, input_below,
                               compute, mask, pass ? &kept : nullptr, to);
      if (pass) pass->layers[i] = std::move(kept);
    } else {
      FeedForward::Kept kept;
      feed_forward(i / 2).forward(weights, h, training, input_below, compute, mask, rows.number(),
                                  pass ? &kept : nullptr, to);
      if (pass) pass->layers[i] = std::move(kept);
    }
    if (&to != &r) r = std::move(to);
  }
  const bool keep_norm =
      pass && (lowest < norm_stage(2 * layers) || norm_trained(2 * layers, training->trained));
  Matrix out = norm(2 * layers, weights)
                   .forward(std::move(r), keep_norm ? &pass->norms[2 * layers] : nullptr);
  if (pass) {
    pass->tokens = tokens;
    pass->first_only = first_only;
    pass->rope = std::move(turns);
  }
  return out;
}

void Transformer::backward(const Weights& weights, Pass pass, Matrix delta,
                           const Training& training, const Collect& collect, Matrix words) const {
  const Dropout* dropout = training.dropout_or_null();
  const Backward with{weights, training.trained, collect, compute, dropout};
  const Rope::Table* turns = rope ? &pass.rope : nullptr;
  Rows rows{pass.tokens, pass.first_only};
  // From ∂L/∂n_i's output to ∂L/∂its input.
  const auto through_norm = [&](std::size_t i, Matrix d) {
    if (pass.lowest > norm_stage(i)) return Matrix();
    Norm::Kept kept = std::move(pass.norms[i]);
    const std::string name = norm_name(i);
    if (training.trained.contains(name + ".weight")) {
      collect(name + ".weight", Gradient::dense(Norm::scale_gradient(kept, d)));
    }
    if (training.trained.contains(name + ".bias")) {
      collect(name + ".bias", Gradient::dense(linear_bias_gradient(d)));
    }
    if (pass.lowest == norm_stage(i)) return Matrix();
    return norm(i, weights).input_gradient(kept, std::move(d));
  };
  Matrix dr = through_norm(2 * layers, std::move(delta));
  for (std::size_t i = 2 * layers; i-- > 0 && pass.lowest <= layer_stage(i);) {
    Lazy h([&] {
      Matrix made = norm(i, weights).output(pass.norms[i]);
      if (after_norm && i == 0) embedding_mask(dropout).apply(made, pass.tokens.first_row);
      return made;
    });
    const bool below = pass.lowest < layer_stage(i);
    const SharedMatrix residual = share(std::move(dr));
    SharedMatrix dy = residual;
    if (const DropoutMask mask = layer_mask(dropout, i); mask) {
      Matrix masked = *residual;
      mask.apply(masked, rows.number());
      dy = share(std::move(masked));
    }
    const bool some = rows.first_only && attends(i);
    Matrix dh;
    if (after_norm && below) {
      if (some) {
        dh = zeros({pass.tokens.rows(), width});
        scatter_add_rows(dh, rows.firsts(), *residual);
      } else {
        dh = copy_of(*residual);
      }
    }
    Matrix* to = below ? &dh : nullptr;
    if (attends(i)) {
      attention(i / 2).backward(with, std::move(std::get<0>(pass.layers[i])), dy, h, rows, turns,
                                dropout, to);
    } else {
      feed_forward(i / 2).backward(with, std::move(std::get<1>(pass.layers[i])), dy, h,
                                   rows.number(), to);
    }
    dy.reset();
    if (!below) return;
    if (after_norm && i == 0) embedding_mask(dropout).apply(dh, pass.tokens.first_row);
    dr = through_norm(i, std::move(dh));
    if (dr.size() == 0) return;
    if (!after_norm) axpy(dr, 1, *residual);
    if (attends(i)) rows.first_only = false;
  }
  if (pass.lowest > 0) return;
  if (!after_norm) embedding_mask(dropout).apply(dr, pass.tokens.first_row);
  const auto table = [&](const std::string& module, std::size_t size,
                         const std::vector<std::int32_t>& ids, Matrix g, std::int32_t frozen = -1) {
    const std::string name = module + ".weight";
    if (!training.trained.contains(name)) return;
    if (g.size() == 0) return collect(name, embedding_gradient(size, dr, ids, frozen));
    add_embedding_gradient(g, dr, ids, frozen);
    collect(name, Gradient::dense(std::move(g)));
  };
  if (types > 0) table(modules.types, types, pass.tokens.types, {});
  if (!rope) table(modules.positions, positions, pass.tokens.positions, {});
  table(modules.words, vocabulary, pass.tokens.ids, std::move(words), padding);
}

}  // namespace gradview
