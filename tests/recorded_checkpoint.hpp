// A checkpoint of tests/golden/transformers_models.py as a Hugging Face folder, and what was read and
// computed with it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradview/io/files.hpp"
#include "gradview/io/hf.hpp"

#ifndef GRADVIEW_GOLDEN_DIR
#define GRADVIEW_GOLDEN_DIR GRADVIEW_TESTS_DIR "/golden"
#endif

namespace gradview {

class RecordedCheckpoint {
 public:
  explicit RecordedCheckpoint(std::string name)
      : file_(GRADVIEW_GOLDEN_DIR "/transformers_models.safetensors"), name_(std::move(name)) {
    std::string path = (std::filesystem::temp_directory_path() / "gradview-hf-XXXXXX").string();
    folder_ = mkdtemp(path.data());
    write_atomically(folder_ + "/config.json", file_.metadata().at(name_));
    SafetensorsWriter::Shapes shapes;
    const std::string prefix = name_ + ".w.";
    for (const Tensor& t : file_.tensors()) {
      if (t.name.starts_with(prefix)) shapes.emplace_back(t.name.substr(prefix.size()), t.shape);
    }
    SafetensorsWriter writer(folder_ + "/model.safetensors", shapes);
    for (const auto& [key, shape] : shapes) {
      const std::vector<Real> values = entries(prefix + key);
      writer.write(key, 0, values.data(), values.size());
    }
    writer.commit();
    hf_ = std::make_unique<HfFolder>(folder_);
  }
  RecordedCheckpoint(const RecordedCheckpoint&) = delete;
  ~RecordedCheckpoint() { std::filesystem::remove_all(folder_); }

  const HfFolder& hf() const { return *hf_; }
  std::vector<Real> entries(const std::string& key) const {
    const Tensor* t = file_.find(key);
    if (!t) throw std::runtime_error("no " + key);
    std::vector<Real> values(t->size());
    file_.read(*t, 0, values.size(), values.data());
    return values;
  }
  template <class Number>
  std::vector<Number> numbers(const std::string& key) const {
    const std::vector<Real> values = entries(name_ + "." + key);
    return {values.begin(), values.end()};
  }
  std::size_t length() const { return file_.find(name_ + ".ids")->shape[1]; }
  Tokens tokens(bool keep_first) const {
    const auto types = keep_first || hf().config().model_type == "bert"
                           ? numbers<std::int32_t>("types")
                           : std::vector<std::int32_t>();
    return pack(numbers<std::int32_t>("ids"), numbers<std::uint8_t>("mask"), length(), keep_first,
                types);
  }

  // The rows that were packed of all that were recorded.
  std::vector<Real> packed(const std::vector<Real>& all, const Tokens& tokens,
                           std::size_t classes) const {
    std::vector<Real> some;
    for (std::size_t b = 0; b < tokens.sequences.size(); ++b) {
      const Sequence& s = tokens.sequences[b];
      for (std::size_t t = s.first; t < s.first + s.count; ++t) {
        const std::size_t row = b * length() + static_cast<std::size_t>(tokens.positions[t]);
        some.insert(some.end(), all.begin() + static_cast<std::ptrdiff_t>(row * classes),
                    all.begin() + static_cast<std::ptrdiff_t>((row + 1) * classes));
      }
    }
    return some;
  }

  const std::string& which() const { return name_; }

 private:
  SafetensorsReader file_;
  std::string name_, folder_;
  std::unique_ptr<HfFolder> hf_;
};

}  // namespace gradview
