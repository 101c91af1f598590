// Self-attention of a transformer: projections to queries, keys and values, the heads, and the
// projection of what they give.     y = [O_1 … O_H] Woᵀ + bo,  q = x Wqᵀ + bq …
//
// With a group of G, in training each head attends within groups of G tokens only: heads below ⌈H/2⌉
// within [0, G), [G, 2G) …, the others within [0, ⌊G/2⌋), [⌊G/2⌋, ⌊G/2⌋ + G) …, so that what is next
// to a border for the ones is not for the others; O(N G) for O(N²). The last group of a sequence may
// be shorter. Everywhere else attention is full. Chen, Qian, Tang, Lai, Liu, Han, Jia: LongLoRA:
// efficient fine-tuning of long-context large language models (2023, arXiv:2309.12307), in the
// grouping of its code for FlashAttention: the wrapped last group of the paper's lets the first
// tokens see the last. Positions are the true ones.
#pragma once

#include <optional>

#include "gradview/models/attention.hpp"
#include "gradview/models/module.hpp"
#include "gradview/models/rope.hpp"
#include "gradview/models/tokens.hpp"

namespace gradview {

// Which rows a layer reads and which it is asked for.
struct Rows {
  const Tokens& tokens;
  bool first_only = false;  // the first row of every sequence, else all

  std::vector<std::size_t> firsts() const;  // where first_only
  std::size_t count() const { return first_only ? tokens.sequences.size() : tokens.rows(); }
  std::size_t number() const { return first_only ? tokens.first_sequence : tokens.first_row; }
  std::vector<Span> spans() const;
  // The sequences cut at multiples of `group` from its half on or, not `shifted`, from 0 on. A
  // sequence that is no longer than a group is left whole.
  std::vector<Span> groups(std::size_t group, bool shifted) const;
};

struct SelfAttention {
  std::vector<Linear> inputs;  // of q, k and v; or one for all three, side by side in that order
  Linear output;
  std::size_t heads = 1, kv_heads = 1, width = 1;  // width: of one head
  bool causal = false;
  double dropout = 0;                // of the probabilities
  std::size_t longest = 0;           // positions of the model
  std::optional<std::size_t> group;  // G of shifted sparse attention, in training

  struct Kept {
    std::vector<Matrix> projected;  // q, k and v after their rotation: side by side, or three
    Matrix normalizers;
    SharedMatrix heads;  // O
  };
  // to += dropout(y); `to` may be x. `below`: ∂L/∂x will be asked for. `kept` is filled with what the
  // gradients need; null: with nothing. rope: null where positions are not turned.
  void forward(const Weights& weights, const Matrix& x, const Rows& rows, const Rope::Table* rope,
               const Training* training, bool below, Compute in, const DropoutMask& mask,
               Kept* kept, Matrix& to) const;
  // From δ = ∂L/∂y to dx += ∂L/∂x (all rows; empty for 0); dx: null where nobody asks for it.
  void backward(const Backward& with, Kept kept, const SharedMatrix& delta, Lazy& x,
                const Rows& rows, const Rope::Table* rope, const Dropout* dropout,
                Matrix* dx) const;

 private:
  bool inputs_trained(const Names& trained) const;
  struct Part {  // heads that attend alike
    Attention attention;
    std::vector<Span> spans;
  };
  std::vector<Part> parts(const Rows& rows, const Dropout* dropout, bool training) const;
  std::size_t column(const std::vector<Matrix>& arrays, std::size_t which) const;
  Heads view(const std::vector<Matrix>& arrays, std::size_t which) const;
  MutableHeads view(std::vector<Matrix>& arrays, std::size_t which) const;
  void turn(std::vector<Matrix>& arrays, const Rope::Table* rope, const Rows& rows,
            bool back) const;
};

}  // namespace gradview
