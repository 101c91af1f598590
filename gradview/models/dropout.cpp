#include "gradview/models/dropout.hpp"

#include <vector>

#include "gradview/core/parallel.hpp"

namespace gradview {

DropoutMask::DropoutMask(const Dropout* dropout, double p, std::string_view name,
                         std::size_t columns)
    : p_(dropout ? p : 0),
      pairs_((columns + 1) / 2),
      stream_(dropout ? dropout->seed : 0, Purpose::dropout, name, dropout ? dropout->step : 0) {}

void DropoutMask::apply(Real* y, std::size_t count, std::size_t row, Real* scratch) const {
  if (p_ <= 0) return;
  Stream at = stream_;
  at.skip(row * pairs_);
  at.fill_uniform(scratch, count + count % 2, 0, 1);
  const auto p = static_cast<Real>(p_);
  const auto kept = static_cast<Real>(1 / (1 - p_));
  for (std::size_t i = 0; i < count; ++i) y[i] *= scratch[i] < p ? Real{0} : kept;
}

void DropoutMask::apply(Matrix& y, std::size_t first) const {
  if (p_ <= 0) return;
  const auto [rows, cols] = shape_of(y);
  parallel_blocks(rows, 32, [&, n = cols](std::size_t begin, std::size_t end) {
    std::vector<Real> scratch(n + 1);
    for (std::size_t t = begin; t < end; ++t) {
      apply(y.data() + t * n, n, first + t, scratch.data());
    }
  });
}

}  // namespace gradview
