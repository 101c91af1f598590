// Transformer: tokens → hidden states, the part of BERT, GPT-2 and Llama below their heads. With
// norms n_0 … n_2L and layers s_0 … s_{2L−1}, attention and feed-forward by turns, all three are
//
//     h_i = n_i(r_i),   r_{i+1} = s_i(h_i) + (h_i after the norm: BERT | r_i before it: GPT-2, Llama)
//
// from the embeddings r_0 to n_2L(r_2L). So the input of every layer is the output of a norm, and the
// backward pass makes it again from what the norm keeps.
//
// Vaswani et al.: Attention is all you need (2017, arXiv:1706.03762). Devlin, Chang, Lee, Toutanova:
// BERT (2018, arXiv:1810.04805). Radford et al.: Language models are unsupervised multitask learners
// (2019). Touvron et al.: LLaMA (2023, arXiv:2302.13971).
#pragma once

#include <optional>
#include <variant>

#include "gradview/models/feed_forward.hpp"
#include "gradview/models/norm.hpp"
#include "gradview/models/self_attention.hpp"

namespace gradview {

struct Transformer {
  std::size_t vocabulary = 0, positions = 0, types = 0;  // rows of the tables; types: 0 for none
  std::size_t width = 0, hidden = 0, layers = 0, heads = 1, kv_heads = 1, head_width = 0;
  bool after_norm = false;  // what the residual takes
  bool causal = true;
  NormKind norm_kind = NormKind::layer;
  double eps = 1e-5;
  Activation activation = Activation::gelu;
  std::optional<Rope> rope;  // else the positions have a table
  bool attention_bias = true, output_bias = true, hidden_bias = true;
  std::int32_t padding =
      -1;  // the word whose row gets no gradient from here; PyTorch's padding_idx
  double embedding_dropout = 0, attention_dropout = 0, hidden_dropout = 0;
  std::optional<std::size_t> group;  // G of shifted sparse attention, in training alone
  Compute compute = Compute::real;   // of the products with W

  // Modules of a checkpoint, with # for the number of the layer.
  struct Modules {
    std::string words, positions, types;
    std::string outer_norm, attention_norm, hidden_norm;  // outer: that outside of all layers
    std::vector<std::string> attention_inputs;            // q, k, v; or one
    std::string attention_output;
    std::vector<std::string> hidden_inputs;  // up; or gate and up
    std::string hidden_output;
    Stored stored = Stored::matrix;
  } modules;

  std::vector<WeightSpec> weights() const;  // from the inputs up
  std::size_t stages() const { return 4 * layers + 2; }

  struct Pass {
    Tokens tokens;
    bool first_only = false;
    std::size_t lowest = SIZE_MAX;  // stage of a trained weight
    Rope::Table rope;
    std::vector<Norm::Kept> norms;
    std::vector<std::variant<SelfAttention::Kept, FeedForward::Kept>> layers;
  };
  // Hidden states: N x width, or of the first row of every sequence only (then the last layer does
  // no work for the others; encoders only). With a pass, whose `lowest` is set, what the gradients of
  // the trained weights need is kept there.
  Matrix forward(const Weights& weights, const Tokens& tokens, bool first_only = false,
                 const Training* training = nullptr, Pass* pass = nullptr) const;
  // From ∂L/∂hidden states to the gradients of the trained weights, the highest first. `words`: what
  // a tied head adds to the gradient of the table of words, or empty.
  void backward(const Weights& weights, Pass pass, Matrix delta, const Training& training,
                const Collect& collect, Matrix words = {}) const;

 private:
  bool attends(std::size_t i) const { return i % 2 == 0; }
  std::string norm_name(std::size_t i) const;
  Norm norm(std::size_t i, const Weights& weights) const;
  SelfAttention attention(std::size_t layer) const;
  FeedForward feed_forward(std::size_t layer) const;
  bool norm_trained(std::size_t i, const Names& trained) const;
  bool input_used(std::size_t i, const Names& trained) const;
  DropoutMask embedding_mask(const Dropout* dropout) const;
  DropoutMask layer_mask(const Dropout* dropout, std::size_t i) const;
  Matrix embed(const Weights& weights, const Tokens& tokens) const;
};

}  // namespace gradview
