// Scaled dot-product attention within every sequence, head by head.     q: N x H w, k, v: N x K w
//
//     O = softmax(Q Kᵀ/√w) V,      P_ij = exp(q_i·k_j/√w − L_i),  L_i = log Σ_j exp(q_i·k_j/√w)
//
// Vaswani et al.: Attention is all you need (2017, arXiv:1706.03762). Query heads h share key–value
// head ⌊h K/H⌋; Ainslie et al.: GQA (2023, arXiv:2305.13245). Of the N² probabilities none is kept:
// the backward pass makes them again from L, a block of queries at a time; Dao, Fu, Ermon, Rudra, Ré:
// FlashAttention (2022, arXiv:2205.14135).
#pragma once

#include <vector>

#include "gradview/models/dropout.hpp"

namespace gradview {

// The heads side by side in columns of an array: row t of head h at data + t stride + h w.
struct Heads {
  const Real* data;
  std::size_t stride;
};
struct MutableHeads {
  Real* data;
  std::size_t stride;
};

// The queries of one sequence and the keys that they attend to: rows of q and O, of k and v.
struct Span {
  std::size_t query, queries;
  std::size_t key, keys;
  std::size_t number;  // of the first query in the whole batch, for dropout
};

struct Attention {
  std::size_t heads = 1, kv_heads = 1, width = 1;  // H, K, w
  bool causal = false;                             // query i of a span attends to keys j <= i only
  DropoutMask dropout = {};                        // of P; row: number of the query · H + head
  std::size_t from_head = 0, to_head = SIZE_MAX;   // the call is for these: [from, to)

  // Writes its heads' columns of O: N x H w; the spans have every row of it. `normalizers`, if any,
  // becomes L (N x H), or its heads' columns of it where it has that shape.
  void forward(const std::vector<Span>& spans, Heads q, Heads k, Heads v, Matrix& o,
               Matrix* normalizers) const;
  // From ∂L/∂O to ∂L/∂Q, ∂L/∂K and ∂L/∂V; no two spans share rows. Rows of no span stay as they are.
  // Calls over some heads each, from the lowest up, and all rows, give what one call gives over all.
  void backward(const std::vector<Span>& spans, Heads q, Heads k, Heads v,
                const Matrix& normalizers, const Matrix& delta, MutableHeads dq, MutableHeads dk,
                MutableHeads dv) const;

 private:
  struct Piece;
  template <class Work>
  void each_piece(const std::vector<Span>& spans, const Work& work) const;
};

}  // namespace gradview
