#include "gradview/core/rng.hpp"

#include "gradview/core/kernels/kernels.hpp"
#include "gradview/core/kernels/normal.hpp"
#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"

namespace gradview {

namespace kernel = GRADVIEW_ISA;

Stream::Stream(std::uint64_t seed, Purpose purpose, std::string_view parameter, std::size_t step)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      counter_{0, static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(fnv1a(parameter)),
               static_cast<std::uint32_t>(purpose)} {}

std::uint64_t Stream::next64() {
  if (used_ == 2) {
    const kernel::Words words = kernel::philox(
        {{counter_[0], counter_[1], counter_[2], counter_[3]}, {key_[0], key_[1]}}, 0);
    words_[0] = words.first;
    words_[1] = words.second;
    ++counter_[0];
    used_ = 0;
  }
  return words_[used_++];
}

double Stream::uniform() { return kernel::uniform(next64()); }

double Stream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const std::uint64_t first = next64(), second = next64();
  const kernel::Pair pair = kernel::normals({first, second});
  spare_ = pair.second;
  has_spare_ = true;
  return pair.first;
}

double Stream::sign() { return kernel::sign(next64()); }

std::size_t Stream::below(std::size_t bound) {
  const std::uint64_t limit = bound * (UINT64_MAX / bound);  // reject the ragged end
  std::uint64_t word = next64();
  while (word >= limit) word = next64();
  return word % bound;
}

void Stream::skip(std::size_t pairs) { counter_[0] += static_cast<std::uint32_t>(pairs); }

// Whole blocks at once; what is left over of the last block, and an odd number at the end, singly.
template <class Draw, class Fill>
void Stream::fill(Real* out, std::size_t count, Draw draw, Fill fill_blocks) {
  std::size_t i = 0;
  for (; i < count && (used_ != 2 || has_spare_); ++i) out[i] = static_cast<Real>(draw());
  const RandomBlocks blocks{
      {counter_[0], counter_[1], counter_[2], counter_[3]}, {key_[0], key_[1]}, (count - i) / 2};
  fill_blocks(blocks, out + i);
  counter_[0] += static_cast<std::uint32_t>(blocks.count);
  for (i += 2 * blocks.count; i < count; ++i) out[i] = static_cast<Real>(draw());
}

void Stream::fill_uniform(Real* out, std::size_t count, double low, double high) {
  fill(
      out, count, [=, this] { return low + (high - low) * uniform(); },
      [=](const RandomBlocks& b, Real* to) { kernels().uniforms(b, low, high - low, to); });
}

void Stream::fill_normal(Real* out, std::size_t count, double deviation) {
  fill(
      out, count, [=, this] { return deviation * normal(); },
      [=](const RandomBlocks& b, Real* to) { kernels().normals(b, deviation, to); });
}

void Stream::fill_sign(Real* out, std::size_t count) {
  fill(
      out, count, [this] { return sign(); },
      [](const RandomBlocks& b, Real* to) { kernels().signs(b, to); });
}

Matrix uniform(Shape shape, double low, double high, Stream rng) {
  Matrix a = uninitialized(shape);
  rng.fill_uniform(a.data(), a.size(), low, high);
  return a;
}

Matrix normal(Shape shape, double deviation, Stream rng) {
  Matrix a = uninitialized(shape);
  rng.fill_normal(a.data(), a.size(), deviation);
  return a;
}

Matrix rademacher(Shape shape, Stream rng) {
  Matrix a = uninitialized(shape);
  rng.fill_sign(a.data(), a.size());
  return a;
}

Matrix haar_rows(std::size_t r, std::size_t n, Stream rng) {
  return orthonormal_rows(normal({r, n}, 1, rng));
}

}  // namespace gradview
