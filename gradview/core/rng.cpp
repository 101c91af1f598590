#include "gradview/core/rng.hpp"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>

#include "gradview/core/linalg.hpp"
#include "gradview/core/text.hpp"

namespace gradview {

Stream::Stream(std::uint64_t seed, Purpose purpose, std::string_view parameter, std::size_t step)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      counter_{0, static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(fnv1a(parameter)),
               static_cast<std::uint32_t>(purpose)} {}

std::uint64_t Stream::next64() {
  if (used_ == 2) {
    const r123::Philox4x32::ctr_type counter{{counter_[0], counter_[1], counter_[2], counter_[3]}};
    const auto block = r123::Philox4x32{}(counter, {{key_[0], key_[1]}});
    words_[0] = block[0] | static_cast<std::uint64_t>(block[1]) << 32;
    words_[1] = block[2] | static_cast<std::uint64_t>(block[3]) << 32;
    ++counter_[0];
    used_ = 0;
  }
  return words_[used_++];
}

double Stream::uniform() { return (static_cast<double>(next64() >> 12) + 0.5) * 0x1p-52; }

double Stream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const double radius = std::sqrt(-2 * std::log(uniform()));
  const double angle = 2 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

double Stream::sign() { return next64() >> 63 ? 1.0 : -1.0; }

std::size_t Stream::below(std::size_t bound) {
  const std::uint64_t limit = bound * (UINT64_MAX / bound);  // reject the ragged end
  std::uint64_t word = next64();
  while (word >= limit) word = next64();
  return word % bound;
}

namespace {

template <class Draw>
Matrix filled(Shape shape, Draw draw) {
  Matrix a = uninitialized(shape);
  for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] = static_cast<Real>(draw());
  return a;
}

}  // namespace

Matrix uniform(Shape shape, double low, double high, Stream rng) {
  return filled(shape, [&] { return low + (high - low) * rng.uniform(); });
}

Matrix normal(Shape shape, double deviation, Stream rng) {
  return filled(shape, [&] { return deviation * rng.normal(); });
}

Matrix rademacher(Shape shape, Stream rng) {
  return filled(shape, [&] { return rng.sign(); });
}

Matrix haar_rows(std::size_t r, std::size_t n, Stream rng) {
  return orthonormal_rows(normal({r, n}, 1, rng));
}

}  // namespace gradview
