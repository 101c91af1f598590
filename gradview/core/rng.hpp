// Counter-based random numbers: Philox4x32-10 keyed by (seed, purpose, parameter, step). Salmon,
// Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). A stream's numbers
// depend on its four keys alone: not on order, threads, what else is drawn, or a restart. Nor on the
// machine, or on whether they are drawn one by one or by the array (kernels/normal.hpp), to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "gradview/core/matrix.hpp"

namespace gradview {

// One number each, so that no two uses of randomness ever share a stream.
enum class Purpose : std::uint32_t {
  init = 1,
  left_frame,
  right_frame,
  order,
  data,
  model,
  test,
  dropout
};

class Stream {
 public:
  Stream(std::uint64_t seed, Purpose purpose, std::string_view parameter = "",
         std::size_t step = 0);

  double uniform();                      // in (0, 1), 52 bits
  double normal();                       // N(0, 1), Box–Muller in double
  double sign();                         // -1 or 1
  std::size_t below(std::size_t bound);  // 0 … bound - 1, unbiased

  void skip(std::size_t pairs);  // of uniform or normal numbers, before any was drawn

  // The next `count` numbers, several times as fast as one by one.
  void fill_uniform(Real* out, std::size_t count, double low, double high);
  void fill_normal(Real* out, std::size_t count, double deviation);
  void fill_sign(Real* out, std::size_t count);

 private:
  std::uint64_t next64();
  template <class Draw, class Fill>
  void fill(Real* out, std::size_t count, Draw draw, Fill fill_blocks);

  std::uint32_t key_[2];
  std::uint32_t counter_[4];  // block index, step, parameter, purpose
  std::uint64_t words_[2] = {};
  std::size_t used_ = 2;
  double spare_ = 0;
  bool has_spare_ = false;
};

Matrix uniform(Shape shape, double low, double high, Stream rng);
Matrix normal(Shape shape, double deviation, Stream rng);
Matrix rademacher(Shape shape, Stream rng);  // entries ±1
Matrix haar_rows(std::size_t r, std::size_t n,
                 Stream rng);  // r <= n orthonormal rows, uniformly distributed

}  // namespace gradview
