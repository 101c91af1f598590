#include "gradview/models/attention.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "gradview/core/parallel.hpp"
#include "gradview/core/tile.hpp"
#include "gradview/models/elementary.hpp"
#include "gradview/models/rows.hpp"

namespace gradview {
namespace {

constexpr std::size_t kQueries = 128;  // of one block: what is made of it stays in the cache

enum Use { kScores, kGradients, kDropped, kRowMask, kNumbers, kUses };

Real* scratch(Use use, std::size_t size) {
  thread_local std::vector<Real> arrays[kUses];
  std::vector<Real>& array = arrays[use];
  if (array.size() < size) array.resize(size);
  return array.data();
}

}  // namespace

// A block of queries of one head of one span, and the keys that they attend to.
struct Attention::Piece {
  const Span& span;
  std::size_t head, kv_head;
  std::size_t place, count;  // of the first query in the span, and how many
  std::size_t keys;
  bool first;  // of its span and key–value head, in all calls

  std::size_t row() const { return span.query + place; }
  std::size_t number(std::size_t i) const { return span.number + place + i; }
  std::size_t visible(bool up_to_own, std::size_t i) const {
    return up_to_own ? place + i + 1 : keys;
  }
};

// All pieces of one span and key–value head come one after the other, on one thread: they add to the
// same gradients of K and V. The first has all the keys, so that it need not add.
template <class Work>
void Attention::each_piece(const std::vector<Span>& spans, const Work& work) const {
  const std::size_t group = heads / kv_heads;
  parallel_blocks(spans.size() * kv_heads, 1, [&](std::size_t at, std::size_t) {
    const Span& span = spans[at / kv_heads];
    const std::size_t kv_head = at % kv_heads;
    const std::size_t blocks = (span.queries + kQueries - 1) / kQueries;
    const std::size_t begin = std::max(kv_head * group, from_head);
    bool first = begin == kv_head * group;
    for (std::size_t head = begin; head < std::min((kv_head + 1) * group, to_head); ++head) {
      for (std::size_t block = blocks; block-- > 0;) {
        const std::size_t place = block * kQueries;
        const std::size_t count = std::min(kQueries, span.queries - place);
        work(Piece{span, head, kv_head, place, count, causal ? place + count : span.keys,
                   std::exchange(first, false)});
      }
    }
  });
}

void Attention::forward(const std::vector<Span>& spans, Heads q, Heads k, Heads v, Matrix& o,
                        Matrix* normalizers) const {
  const std::size_t rows = o.shape()[0];
  require_shape("Attention", "O", shape_of(o), {rows, heads * width});
  if (normalizers && shape_of(*normalizers) != Shape{rows, heads}) {
    *normalizers = uninitialized({rows, heads});
  }
  const Real scaling = 1 / std::sqrt(static_cast<Real>(width));
  each_piece(spans, [&](const Piece& piece) {
    const std::size_t keys = piece.keys, row = piece.row(), key = piece.span.key;
    Real* s = scratch(kScores, piece.count * keys);
    const Tile p{s, piece.count, keys, keys};
    tile_matmul_nt(p, 0, scaling,
                   {q.data + row * q.stride + piece.head * width, piece.count, width, q.stride},
                   {k.data + key * k.stride + piece.kv_head * width, keys, width, k.stride});
    Real* sums = scratch(kNumbers, piece.count + keys + 1);
    for (std::size_t i = 0; i < piece.count; ++i) {
      Real* at = s + i * keys;
      const std::size_t visible = piece.visible(causal, i);
      const Real largest = lane_max(at, visible);
      sums[i] =
          lane_sum(visible, [=](std::size_t j) { return at[j] = exponential(at[j] - largest); });
      std::fill(at + visible, at + keys, Real{0});
      if (normalizers) (*normalizers)(row + i, piece.head) = largest + std::log(sums[i]);
      dropout.apply(at, visible, piece.number(i) * heads + piece.head, sums + piece.count);
    }
    const Tile out{o.data() + row * heads * width + piece.head * width, piece.count, width,
                   heads * width};
    tile_matmul(out, 0, 1, p,
                {v.data + key * v.stride + piece.kv_head * width, keys, width, v.stride});
    for (std::size_t i = 0; i < piece.count; ++i) {
      const Real share = 1 / sums[i];
      for (std::size_t c = 0; c < width; ++c) out.data[i * out.stride + c] *= share;
    }
  });
}

void Attention::backward(const std::vector<Span>& spans, Heads q, Heads k, Heads v,
                         const Matrix& normalizers, const Matrix& delta, MutableHeads dq,
                         MutableHeads dk, MutableHeads dv) const {
  const std::size_t rows = delta.shape()[0];
  require_shape("Attention", "δ", shape_of(delta), {rows, heads * width});
  require_shape("Attention", "L", shape_of(normalizers), {rows, heads});
  const Real scaling = 1 / std::sqrt(static_cast<Real>(width));
  each_piece(spans, [&](const Piece& piece) {
    const std::size_t n = piece.count, keys = piece.keys, row = piece.row(), key = piece.span.key;
    const auto queries_of = [&](auto heads_of, std::size_t stride) {
      return heads_of + row * stride + piece.head * width;
    };
    const auto keys_of = [&](auto heads_of, std::size_t stride) {
      return heads_of + key * stride + piece.kv_head * width;
    };
    const ConstTile q_tile(queries_of(q.data, q.stride), n, width, q.stride);
    const ConstTile k_tile(keys_of(k.data, k.stride), keys, width, k.stride);
    const ConstTile v_tile(keys_of(v.data, v.stride), keys, width, v.stride);
    const ConstTile do_tile(queries_of(delta.data(), heads * width), n, width, heads * width);
    Real* p = scratch(kScores, n * keys);
    Real* d = scratch(kGradients, n * keys);
    Real* kept = dropout ? scratch(kDropped, n * keys) : p;  // P ∘ mask / (1 − p)
    tile_matmul_nt({p, n, keys, keys}, 0, scaling, q_tile, k_tile);
    tile_matmul_nt({d, n, keys, keys}, 0, 1, do_tile, v_tile);
    for (std::size_t i = 0; i < n; ++i) {
      Real *prob = p + i * keys, *g = d + i * keys;
      const std::size_t visible = piece.visible(causal, i);
      const Real normalizer = normalizers(row + i, piece.head);
      for (std::size_t j = 0; j < visible; ++j) prob[j] = exponential(prob[j] - normalizer);
      std::fill(prob + visible, prob + keys, Real{0});
      if (dropout) {
        Real* mask = scratch(kRowMask, 2 * keys + 1);
        std::fill_n(mask, keys, Real{1});
        dropout.apply(mask, visible, piece.number(i) * heads + piece.head, mask + keys);
        for (std::size_t j = 0; j < keys; ++j) {
          kept[i * keys + j] = prob[j] * mask[j];
          g[j] *= mask[j];
        }
      }
    }
    tile_matmul_tn({keys_of(dv.data, dv.stride), keys, width, dv.stride}, piece.first ? 0 : 1, 1,
                   {kept, n, keys, keys}, do_tile);
    for (std::size_t i = 0; i < n; ++i) {
      const Real* prob = p + i * keys;
      Real* g = d + i * keys;
      const Real mean = lane_sum(keys, [=](std::size_t j) { return prob[j] * g[j]; });
      for (std::size_t j = 0; j < keys; ++j) g[j] = prob[j] * (g[j] - mean);
    }
    tile_matmul({queries_of(dq.data, dq.stride), n, width, dq.stride}, 0, scaling,
                {d, n, keys, keys}, k_tile);
    tile_matmul_tn({keys_of(dk.data, dk.stride), keys, width, dk.stride}, piece.first ? 0 : 1,
                   scaling, {d, n, keys, keys}, q_tile);
  });
}

}  // namespace gradview
