// safetensors, the tensor files of Hugging Face (github.com/huggingface/safetensors): read in
// parts, written in parts. u64 length of the header · the header, JSON · the values, packed,
// little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradview/core/matrix.hpp"
#include "gradview/io/descriptor.hpp"

namespace gradview {

struct Tensor {
  std::string name, dtype;           // dtype as the file says it: "F32", "BF16", "I64", …
  std::vector<std::size_t> shape;    // {} for a single number
  std::uint64_t begin = 0, end = 0;  // bytes, from the first one after the header

  std::size_t size() const;  // elements
};

using Metadata = std::map<std::string, std::string>;

std::string to_string(const std::vector<std::size_t>& shape);  // "[3, 4]"

// Keeps the file open and reads what is asked for, so a file may be larger than memory. DataError
// on all that the format's own reader rejects, on duplicate or unknown keys, and if a read fails.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<Tensor>& tensors() const { return tensors_; }  // in order of name
  const Metadata& metadata() const { return metadata_; }
  const Tensor* find(std::string_view name) const;  // null where there is none

  // Elements first … first + count - 1 of one of tensors(), rounded to Real. DataError unless its
  // dtype is F64, F32, F16 or BF16; std::invalid_argument past its end.
  void read(const Tensor& tensor, std::size_t first, std::size_t count, Real* out) const;
  // A whole tensor of two dimensions. DataError on any other.
  Matrix matrix(const Tensor& tensor) const;
  // A whole tensor of integers. DataError unless its dtype is I64, I32, U8 or BOOL.
  std::vector<std::int64_t> integers(const Tensor& tensor) const;
  // Of it the elements first … first + count − 1; std::invalid_argument past its end.
  std::vector<std::int64_t> integers(const Tensor& tensor, std::size_t first,
                                     std::size_t count) const;

 private:
  InputFile file_;
  std::vector<Tensor> tensors_;
  Metadata metadata_;
  std::uint64_t data_ = 0;  // where the values begin
};

// Writes tensors of Real (F32, or F64 where Real is double) in any order and in parts. The file
// appears under its name at commit(); without it nothing is left. IoError if a write fails.
class SafetensorsWriter {
 public:
  using Shapes = std::vector<std::pair<std::string, std::vector<std::size_t>>>;

  // std::invalid_argument on a name that comes twice, is not UTF-8 or is "__metadata__".
  // The metadata gets "format": "pt" (transformers asks for one) unless it says otherwise.
  SafetensorsWriter(std::string path, const Shapes& tensors, const Metadata& metadata = {});

  // std::invalid_argument on an unknown name or past the tensor's end.
  void write(std::string_view name, std::size_t first, const Real* values, std::size_t count);
  void write(std::string_view name, const Matrix& whole);
  void commit();  // std::logic_error unless as many elements were written as each tensor has

 private:
  struct Slot {
    Tensor tensor;
    std::size_t written = 0;
  };
  Slot& slot(std::string_view name);

  AtomicFile file_;
  std::map<std::string, Slot, std::less<>> slots_;
  std::uint64_t data_ = 0;
};

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Matrix>>& tensors,
                      const Metadata& metadata = {});

}  // namespace gradview
