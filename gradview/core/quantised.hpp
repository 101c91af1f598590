// QuantisedMatrix: a frozen m x n weight in 4 bits a number, and the products with it, for which a
// panel of its rows at a time is made again; all of it never is.
//
//     w_k = table[code_k] · absmax_b,  b = ⌊k/64⌋ over the entries row by row
//     absmax_b = map[byte_b] · top_c + mean,  c = ⌊b/256⌋     4 + 8/64 + 32/(64 · 256) bits a number
//
// code_k is the nearest of the table to w_k/max|w| over the block, mean that of all the maxima, byte_b
// the nearest of the map to (max_b − mean)/top_c; of two that are equally near, the lower.
//
// nf4   the table is made of quantiles of N(0, 1), 0 among them
// int4  −1, −6/7 … 1, in the same blocks
// map   0, 1 and ±10^(i−6) · (the 2^i centres between 0.1 and 1), i = 0 … 6
//
// Dettmers, Pagnoni, Holtzman, Zettlemoyer: QLoRA: Efficient Finetuning of Quantized LLMs, 2023,
// arXiv:2305.14314. The article's formula for the table has infinite ends; its numbers are
// bitsandbytes' to the bit, in float also where Real is double; the map's are so but for the last bit,
// which in theirs follows the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gradview/core/bf16.hpp"
#include "gradview/core/gradient.hpp"

namespace gradview {

enum class FourBit { nf4, int4 };

std::string to_string(FourBit type);
FourBit four_bit(const std::string& name);  // throws std::invalid_argument on any other

class QuantisedMatrix {
 public:
  static constexpr std::size_t kBlock = 64, kGroup = 256;  // numbers of a block, blocks of a group
  static constexpr std::size_t kPanel = std::size_t{1} << 16;  // numbers of a panel, or one row

  explicit QuantisedMatrix(const Matrix& w, FourBit type = FourBit::nf4);

  Shape shape() const { return shape_; }
  FourBit type() const { return type_; }
  std::size_t bytes() const;  // of all that is kept
  Matrix rows(std::size_t first, std::size_t count) const;

  // work(first, rows first … of W) for all of W, a panel at a time, in order.
  template <class Work>
  void each_panel(const Work& work) const {
    const std::size_t step = panel_rows();
    for (std::size_t i = 0; i < shape_.rows; i += step) {
      work(i, rows(i, std::min(step, shape_.rows - i)));
    }
  }
  std::size_t panel_rows() const;

  const std::vector<std::uint8_t>& codes() const { return codes_; }  // two each, the first above
  const std::vector<std::uint8_t>& block_bytes() const { return block_bytes_; }
  const std::vector<float>& tops() const { return tops_; }
  float mean() const { return mean_; }
  static const std::vector<float>& table(FourBit type);  // ascending
  static const std::vector<float>& map();                // likewise

 private:
  float absmax(std::size_t block) const;
  void make(std::size_t begin, std::size_t end, Real* to) const;  // entries, row by row

  Shape shape_;
  FourBit type_;
  std::vector<std::uint8_t> codes_, block_bytes_;
  std::vector<float> tops_;
  float mean_ = 0;
};

Matrix matmul_nt(const Operand& x, const QuantisedMatrix& w);  // x Wᵀ
Matrix matmul(const Operand& d, const QuantisedMatrix& w);     // d W
Matrix matmul_tn(const Matrix& u, const QuantisedMatrix& w);   // uᵀ W
Matrix matmul_nt(const QuantisedMatrix& w, const Matrix& v);   // W vᵀ
void add_matmul_nt(Matrix& c, double s, const Operand& x, const QuantisedMatrix& w);
void add_matmul(Matrix& c, double s, const Operand& d, const QuantisedMatrix& w);
Matrix row_dots(const Gradient& g, const QuantisedMatrix& w);  // ⟨G_i, W_i⟩   → m x 1
Matrix squared_row_norms(const QuantisedMatrix& w);            // ‖W_i‖²       → m x 1
Matrix columns(const QuantisedMatrix& w, std::size_t first, std::size_t count);  // m x count

}  // namespace gradview
