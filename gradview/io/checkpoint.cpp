#include "gradview/io/checkpoint.hpp"

#include <cstring>
#include <set>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

const char* const kSum = "sum";

// Of names, shapes, bytes and words: a checkpoint with another one has been altered.
class Sum {
 public:
  void add(const std::string& text) { add(text.data(), text.size()); }
  void add(const std::string& name, const Matrix& value) {
    add(name + to_string(shape_of(value)));
    add(value.data(), value.size() * sizeof(Real));
  }
  std::string text() const { return std::to_string(sum_); }

 private:
  void add(const void* data, std::size_t size) {  // FNV-1a, eight bytes at a time
    const char* at = static_cast<const char*>(data);
    for (std::size_t i = 0; i < size; i += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, at + i, std::min<std::size_t>(8, size - i));
      sum_ = (sum_ ^ word) * 0x100000001b3U;
      sum_ ^= sum_ >> 29;
    }
  }
  std::uint64_t sum_ = 0xcbf29ce484222325U;
};

void add_words(Sum& sum, const Metadata& words) {
  for (const auto& [key, word] : words) {
    if (key != kSum && key != "format") sum.add(key + "=" + word + "\n");
  }
}

}  // namespace

void write_checkpoint(const std::string& path, const State& state, Metadata words) {
  SafetensorsWriter::Shapes shapes;
  std::map<std::string, const Matrix*> sorted;
  state([&](const std::string& name, Matrix& value) {
    shapes.emplace_back(name, std::vector{value.shape()[0], value.shape()[1]});
    sorted[name] = &value;
  });
  Sum sum;
  state([&](const std::string& name, Matrix& value) { sum.add(name, value); });
  add_words(sum, words);
  words[kSum] = sum.text();
  SafetensorsWriter writer(path, shapes, words);
  state([&](const std::string& name, Matrix& value) { writer.write(name, value); });
  writer.commit();
}

CheckpointReader::CheckpointReader(std::string path) : path_(std::move(path)) {
  try {
    const SafetensorsReader file(path_);
    words_ = file.metadata();
    for (const Tensor& t : file.tensors()) values_[t.name] = file.matrix(t);
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  }
}

void CheckpointReader::fail(const std::string& what) const {
  throw CheckpointError(path_ + ": " + what);
}

const std::string& CheckpointReader::word(const std::string& key) const {
  const auto found = words_.find(key);
  if (found == words_.end()) fail("has no word '" + key + "'");
  return found->second;
}

double CheckpointReader::number(const std::string& key) const {
  const auto number = parse_exact(word(key));
  if (!number) fail("'" + key + "' is " + quoted_name(word(key)) + ", no number");
  return *number;
}

void CheckpointReader::restore(const State& state) const {
  Sum sum;
  std::size_t known = 0;
  state([&](const std::string& name, Matrix&) {
    const auto found = values_.find(name);
    if (found == values_.end()) fail("has no state " + quoted_name(name));
    sum.add(name, found->second);
    ++known;
  });
  if (known != values_.size()) {
    fail("has " + std::to_string(values_.size()) + " matrices, expected " + std::to_string(known));
  }
  add_words(sum, words_);
  if (sum.text() != word(kSum)) fail("is not what was written: its sum is another");
  state([&](const std::string& name, Matrix& value) { value = values_.at(name); });
}

}  // namespace gradview
