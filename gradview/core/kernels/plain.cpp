// Every kernel as one would write it down: nothing is packed, nothing is blocked, sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/normal.hpp"

namespace gradview {
namespace {

std::size_t size(std::size_t r, std::size_t n) { return r * n; }

void pack(Strided from, std::size_t r, std::size_t n, Real* to) {
  for (std::size_t k = 0; k < r; ++k) {
    for (std::size_t j = 0; j < n; ++j) to[k * n + j] = from.data[k * from.row + j * from.column];
  }
}

void update_pack(Strided from, std::size_t k, std::size_t n, std::size_t first, std::size_t,
                 Real* to) {
  pack(from, k, n, to + first * n);
}

void add(const Real* packed, std::size_t r, std::size_t n, Real s, Real* to, std::size_t row,
         std::size_t column) {
  for (std::size_t k = 0; k < r; ++k) {
    for (std::size_t j = 0; j < n; ++j) to[k * row + j * column] += s * packed[k * n + j];
  }
}

void thin(const ThinBlock& b) {
  for (std::size_t k = 0; k < b.r; ++k) {
    for (std::size_t i = 0; b.v && i < b.rows; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < b.n; ++j) {
        sum += static_cast<double>(b.a[i * b.lda + j]) * b.v[k * b.n + j];
      }
      b.p[i * b.r + k] = static_cast<Real>(sum);
    }
    for (std::size_t j = 0; b.q && j < b.n; ++j) {
      double sum = b.h[k * b.n + j];
      for (std::size_t i = 0; i < b.rows; ++i) {
        sum += static_cast<double>(b.a[i * b.lda + j]) * b.q[i * b.r + k];
      }
      b.h[k * b.n + j] = static_cast<Real>(sum);
    }
  }
}

void update(const UpdateBlock& b) {
  for (std::size_t i = 0; i < b.rows; ++i) {
    for (std::size_t j = 0; j < b.n; ++j) {
      double sum = b.w[i * b.n + j];
      for (std::size_t l = 0; l < b.k; ++l) {
        sum += static_cast<double>(b.left[i * b.k + l]) * b.right[l * b.n + j];
      }
      b.w[i * b.n + j] = static_cast<Real>(sum);
    }
  }
}

void fold(const FoldBlock& b) {
  for (std::size_t i = 0; i < b.rows; ++i) {
    std::vector<double> sums(b.r);
    for (std::size_t j = 0; j < b.n; ++j) {
      sums[j % b.r] += b.a[i * b.n + j];
      if (b.rows_sum) b.rows_sum[(b.first + i) % b.r * b.n + j] += b.a[i * b.n + j];
    }
    for (std::size_t k = 0; b.columns && k < b.r; ++k) {
      b.columns[i * b.r + k] = static_cast<Real>(sums[k]);
    }
  }
}

void unfold(const UnfoldBlock& b) {
  for (std::size_t i = 0; i < b.rows; ++i) {
    for (std::size_t j = 0; j < b.n; ++j) {
      b.w[i * b.n + j] += b.u[i * b.r + j % b.r] + b.v[(b.first + i) % b.r * b.n + j];
    }
  }
}

void adam(const AdamStep& s, std::size_t count, Real* g, Real* m, Real* v) {
  for (std::size_t i = 0; i < count; ++i) {
    if (m) m[i] = s.beta1 * m[i] + s.rest1 * g[i];
    v[i] = s.beta2 * v[i] + s.rest2 * g[i] * g[i];
    const Real first = m ? s.first_scale * m[i] : g[i];
    g[i] = first / (std::sqrt(v[i]) * s.root_scale + s.eps);
  }
}

void momentum(Real mu, bool first, bool nesterov, std::size_t count, Real* g, Real* b) {
  for (std::size_t i = 0; i < count; ++i) {
    b[i] = first ? g[i] : mu * b[i] + g[i];
    g[i] = nesterov ? g[i] + mu * b[i] : b[i];
  }
}

std::vector<Real> pulled(const Move& move, std::size_t count, const Real* w, const Real* g) {
  std::vector<Real> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = g[i] + move.pull * w[i];
  return out;
}

void moved(const Move& move, const std::vector<Real>& direction, Real* w) {
  for (std::size_t i = 0; i < direction.size(); ++i) {
    w[i] = move.keep * w[i] - move.lr * direction[i];
  }
}

void adam_move(const AdamStep& s, const Move& move, std::size_t count, Real* w, const Real* g,
               Real* m, Real* v) {
  std::vector<Real> direction = pulled(move, count, w, g);
  adam(s, count, direction.data(), m, v);
  moved(move, direction, w);
}

void momentum_move(Real mu, bool first, bool nesterov, const Move& move, std::size_t count, Real* w,
                   const Real* g, Real* b) {
  std::vector<Real> direction = pulled(move, count, w, g);
  if (b) momentum(mu, first, nesterov, count, direction.data(), b);
  moved(move, direction, w);
}

// One by one, as a stream draws them.
template <class Draw>
void each_block(const RandomBlocks& b, Real* out, const Draw& draw) {
  const plain::Philox state{{b.counter[0], b.counter[1], b.counter[2], b.counter[3]},
                            {b.key[0], b.key[1]}};
  for (std::size_t i = 0; i < b.count; ++i) {
    const plain::Pair pair = draw(plain::philox(state, static_cast<std::uint32_t>(i)));
    out[2 * i] = static_cast<Real>(pair.first);
    out[2 * i + 1] = static_cast<Real>(pair.second);
  }
}

void normals(const RandomBlocks& b, double deviation, Real* out) {
  each_block(b, out, [&](plain::Words words) {
    const plain::Pair pair = plain::normals(words);
    return plain::Pair{deviation * pair.first, deviation * pair.second};
  });
}

void uniforms(const RandomBlocks& b, double low, double width, Real* out) {
  each_block(b, out, [&](plain::Words words) {
    return plain::Pair{low + width * plain::uniform(words.first),
                       low + width * plain::uniform(words.second)};
  });
}

void signs(const RandomBlocks& b, Real* out) {
  each_block(b, out, [](plain::Words words) {
    return plain::Pair{plain::sign(words.first), plain::sign(words.second)};
  });
}

constexpr Kernels kPlain = {
    .isa = "plain",
    .thin_size = size,
    .thin_pack = pack,
    .thin_add = add,
    .thin = thin,
    .update_size = size,
    .update_pack = update_pack,
    .update = update,
    .fold = fold,
    .unfold = unfold,
    .adam = adam,
    .adam_move = adam_move,
    .momentum = momentum,
    .momentum_move = momentum_move,
    .normals = normals,
    .uniforms = uniforms,
    .signs = signs,
};

}  // namespace

const Kernels& plain_kernels() { return kPlain; }

}  // namespace gradview
