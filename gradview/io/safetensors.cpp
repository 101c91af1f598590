// safetensors: the values, by pread and pwrite.
#include "gradview/io/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

const std::string real_dtype = sizeof(Real) == 4 ? "F32" : "F64";

Real from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

Real from_float16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16, rest = bits & 0x7fffU;
  std::uint32_t magnitude = (rest << 13) + (112U << 23);                                // normal
  if (rest >= 0x7c00U) magnitude = 0x7f800000U | (rest & 0x3ffU) << 13;                 // inf, nan
  if (rest < 0x400U) magnitude = std::bit_cast<std::uint32_t>(float(rest) * 0x1p-24F);  // subnormal
  return std::bit_cast<float>(sign | magnitude);
}

template <class Stored, class Out, class Convert>
void read_as(const InputFile& file, std::uint64_t offset, std::size_t count, Out* out,
             Convert convert) {
  std::vector<Stored> part(std::min(count, std::size_t{1} << 16));
  while (count > 0) {
    const std::size_t n = std::min(count, part.size());
    file.read_exactly(offset, part.data(), n * sizeof(Stored));
    out = std::transform(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(n), out, convert);
    offset += n * sizeof(Stored);
    count -= n;
  }
}

void require_within(const Tensor& t, std::size_t first, std::size_t count) {
  if (first <= t.size() && count <= t.size() - first) return;
  throw std::invalid_argument("tensor " + quoted_name(t.name) + " of shape " + to_string(t.shape) +
                              " has no " + std::to_string(count) + " elements from " +
                              std::to_string(first));
}

std::uint64_t byte_at(std::uint64_t data, const Tensor& t, std::size_t first) {
  return data + t.begin + (t.size() == 0 ? 0 : (t.end - t.begin) / t.size() * first);
}

}  // namespace

std::string to_string(const std::vector<std::size_t>& shape) {
  std::string text;
  for (const std::size_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "[" + text + "]";
}

std::size_t Tensor::size() const {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

SafetensorsReader::SafetensorsReader(const std::string& path) : file_(path) {
  std::uint64_t length = 0;
  if (file_.size() < sizeof length) {
    throw DataError(path + ": has " + std::to_string(file_.size()) +
                    " bytes, expected the 8 of a safetensors header's length");
  }
  file_.read_exactly(0, &length, sizeof length);
  if (length > largest_safetensors_header || length > file_.size() - sizeof length) {
    throw DataError(path + ": claims a header of " + std::to_string(length) +
                    " bytes, expected at most 100,000,000 and no more than the file has");
  }
  std::string text(length, ' ');
  file_.read_exactly(sizeof length, text.data(), length);
  data_ = sizeof length + length;
  SafetensorsHeader header = parse_safetensors_header(path, text, file_.size() - data_);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

const Tensor* SafetensorsReader::find(std::string_view name) const {
  const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                      [](const Tensor& t, auto key) { return t.name < key; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

void SafetensorsReader::read(const Tensor& t, std::size_t first, std::size_t count,
                             Real* out) const {
  require_within(t, first, count);
  const std::uint64_t offset = byte_at(data_, t, first);
  if (t.dtype == real_dtype) {
    file_.read_exactly(offset, out, count * sizeof(Real));
  } else if (t.dtype == "F64") {
    read_as<double>(file_, offset, count, out, [](double x) { return static_cast<Real>(x); });
  } else if (t.dtype == "F32") {
    read_as<float>(file_, offset, count, out, [](float x) { return static_cast<Real>(x); });
  } else if (t.dtype == "F16") {
    read_as<std::uint16_t>(file_, offset, count, out, from_float16);
  } else if (t.dtype == "BF16") {
    read_as<std::uint16_t>(file_, offset, count, out, from_bfloat16);
  } else {
    throw DataError(path() + ": tensor " + quoted_name(t.name) + " has dtype " + t.dtype +
                    ", expected F64, F32, F16 or BF16");
  }
}

Matrix SafetensorsReader::matrix(const Tensor& t) const {
  if (t.shape.size() != 2) {
    throw DataError(path() + ": tensor " + quoted_name(t.name) + " has shape " +
                    to_string(t.shape) + ", expected two dimensions");
  }
  Matrix values = uninitialized({t.shape[0], t.shape[1]});
  read(t, 0, t.size(), values.data());
  return values;
}

std::vector<std::int64_t> SafetensorsReader::integers(const Tensor& t) const {
  return integers(t, 0, t.size());
}

std::vector<std::int64_t> SafetensorsReader::integers(const Tensor& t, std::size_t first,
                                                      std::size_t count) const {
  require_within(t, first, count);
  std::vector<std::int64_t> values(count);
  const std::uint64_t offset = byte_at(data_, t, first);
  const auto widen = [](auto x) { return static_cast<std::int64_t>(x); };
  if (t.dtype == "I64") {
    read_as<std::int64_t>(file_, offset, values.size(), values.data(), widen);
  } else if (t.dtype == "I32") {
    read_as<std::int32_t>(file_, offset, values.size(), values.data(), widen);
  } else if (t.dtype == "U8" || t.dtype == "BOOL") {
    read_as<std::uint8_t>(file_, offset, values.size(), values.data(), widen);
  } else {
    throw DataError(path() + ": tensor " + quoted_name(t.name) + " has dtype " + t.dtype +
                    ", expected I64, I32, U8 or BOOL");
  }
  return values;
}

SafetensorsWriter::SafetensorsWriter(std::string path, const Shapes& tensors,
                                     const Metadata& metadata)
    : file_(std::move(path)) {
  for (const auto& [name, shape] : tensors) {
    const bool fresh = slots_.try_emplace(name, Slot{{name, real_dtype, shape}}).second;
    if (!fresh || name == "__metadata__" || !bits_in(shape, 8 * sizeof(Real))) {
      throw std::invalid_argument("safetensors: tensor " + quoted_name(name) + " of shape " +
                                  to_string(shape) + " is a duplicate, reserved or too large");
    }
  }
  SafetensorsHeader header{{}, metadata};
  header.metadata.try_emplace("format", "pt");
  std::uint64_t end = 0;
  for (auto& [name, slot] : slots_) {
    slot.tensor.begin = end;
    slot.tensor.end = end += slot.tensor.size() * sizeof(Real);
    header.tensors.push_back(slot.tensor);
  }
  const std::string text = format_safetensors_header(header);
  data_ = text.size();
  file_.write_at(0, text.data(), text.size());
}

SafetensorsWriter::Slot& SafetensorsWriter::slot(std::string_view name) {
  const auto found = slots_.find(name);
  if (found != slots_.end()) return found->second;
  throw std::invalid_argument(file_.path() + ": no tensor '" + std::string(name) +
                              "' was declared");
}

void SafetensorsWriter::write(std::string_view name, std::size_t first, const Real* values,
                              std::size_t count) {
  Slot& to = slot(name);
  require_within(to.tensor, first, count);
  file_.write_at(byte_at(data_, to.tensor, first), values, count * sizeof(Real));
  to.written += count;
}

void SafetensorsWriter::write(std::string_view name, const Matrix& whole) {
  const Shape shape = shape_of(whole);
  if (slot(name).tensor.shape != std::vector{shape.rows, shape.cols}) {
    throw std::invalid_argument("tensor '" + std::string(name) + "' has shape " +
                                to_string(slot(name).tensor.shape) + ", got " + to_string(shape));
  }
  write(name, 0, whole.data(), whole.size());
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_) {
    if (slot.written == slot.tensor.size()) continue;
    throw std::logic_error(file_.path() + ": " + std::to_string(slot.written) + " of " +
                           std::to_string(slot.tensor.size()) + " elements of tensor '" + name +
                           "' were written");
  }
  file_.commit();
}

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Matrix>>& tensors,
                      const Metadata& metadata) {
  SafetensorsWriter::Shapes shapes;
  for (const auto& [name, values] : tensors) {
    shapes.emplace_back(name, std::vector{values.shape()[0], values.shape()[1]});
  }
  SafetensorsWriter writer(path, shapes, metadata);
  for (const auto& [name, values] : tensors) writer.write(name, values);
  writer.commit();
}

}  // namespace gradview
