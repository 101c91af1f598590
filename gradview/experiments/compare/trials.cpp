#include "gradview/experiments/compare/trials.hpp"

#include <algorithm>
#include <cmath>

#include "gradview/core/text.hpp"
#include "gradview/io/csv.hpp"

namespace gradview {

std::vector<double> expected_best(std::vector<double> scores) {
  for (double& score : scores) score = std::isfinite(score) ? score : 0;
  std::sort(scores.begin(), scores.end());
  const std::size_t n = scores.size();
  std::vector<double> expected;
  for (std::size_t k = 1; k <= n; ++k) {
    double weight = static_cast<double>(k) / static_cast<double>(n);  // C(n−1, k−1) / C(n, k)
    double sum = 0;
    for (std::size_t i = n; i >= k; --i) {
      sum += weight * scores[i - 1];
      if (i > 1) weight *= static_cast<double>(i - k) / static_cast<double>(i - 1);
    }
    expected.push_back(sum);
  }
  return expected;
}

std::string trials_csv(const Table& table, const std::vector<std::vector<double>>& scores) {
  std::string text = csv_line({"method", "optimizer", "k", "expected_best"});
  for (std::size_t c = 0; c < table.lines.size(); ++c) {
    const Curve& curve = table.lines[c].curve;
    const std::vector<double> expected = expected_best(scores[c]);
    for (std::size_t k = 1; k <= expected.size(); ++k) {
      text += csv_line({curve.method, curve.optimizer, std::to_string(k), exact(expected[k - 1])});
    }
  }
  return text;
}

}  // namespace gradview
