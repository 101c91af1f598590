// Dropout by counters: entry (row, column) is kept with probability 1 − p and divided by it. Whether
// it is kept depends on the stream, the row's number in the batch and the column alone, so that the
// backward pass draws the mask again instead of keeping it, and parts of a batch draw what the whole
// would.
//
// Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: a simple way to prevent neural
// networks from overfitting (JMLR 15, 2014).
#pragma once

#include <cstdint>
#include <string_view>

#include "gradview/core/rng.hpp"

namespace gradview {

struct Dropout {
  std::uint64_t seed = 0;
  std::size_t step = 0;
};

class DropoutMask {
 public:
  DropoutMask() = default;  // keeps everything
  // Of the activation called `name`, of rows of at most `columns` entries; keeps everything where
  // `dropout` is null or p is 0.
  DropoutMask(const Dropout* dropout, double p, std::string_view name, std::size_t columns);

  explicit operator bool() const { return p_ > 0; }
  // The first entries of row `row`: y ← y ∘ mask / (1 − p); scratch: one number more than there are.
  void apply(Real* y, std::size_t count, std::size_t row, Real* scratch) const;
  // All rows of y, the first of which is row `first`.
  void apply(Matrix& y, std::size_t first) const;

 private:
  double p_ = 0;
  std::size_t pairs_ = 0;  // of a row: numbers come by twos
  Stream stream_{0, Purpose::dropout};
};

}  // namespace gradview
