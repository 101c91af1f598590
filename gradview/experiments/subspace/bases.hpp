// The leading singular directions of ΔW of every run at its end, and what comparing them says.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "gradview/experiments/layers.hpp"
#include "gradview/experiments/spectral.hpp"

namespace gradview {

class Bases {
 public:
  // `directions`: how many are followed from step to step and kept at the end.
  Bases(std::size_t directions, std::size_t last_step)
      : directions_(directions), last_step_(last_step) {}

  void watch(const Watched& seen);  // rows for layers.csv; at the last step keeps what is below

  struct End {
    Matrix delta;         // ΔW
    Matrix rows;          // its leading right singular vectors, k x n
    std::size_t present;  // of them that are not noise: singular value above 1e-5 of the largest
    double intruders;
  };
  const End* find(const std::string& method, std::uint64_t seed, const std::string& matrix) const;

 private:
  using Key = std::tuple<std::string, std::uint64_t, std::string>;
  std::size_t directions_, last_step_;
  std::map<Key, End> ends_;
  std::map<Key, Matrix> before_;     // the directions at the logged step before
  std::map<std::string, Svd> base_;  // of W₀, by matrix: one start serves all runs
  std::mutex mutex_;
};

}  // namespace gradview
