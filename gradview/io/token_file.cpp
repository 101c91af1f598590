#include "gradview/io/token_file.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/safetensors.hpp"
#include "gradview/io/safetensors_header.hpp"

namespace gradview {
namespace {

// The integers of a tensor as smaller ones, a part at a time. DataError outside 0 … most.
template <class Number>
std::vector<Number> narrowed(const SafetensorsReader& file, const Tensor& t, std::int64_t most) {
  constexpr std::size_t kPart = 1 << 16;
  std::vector<Number> all;
  all.reserve(t.size());
  while (all.size() < t.size()) {
    for (const std::int64_t x :
         file.integers(t, all.size(), std::min(kPart, t.size() - all.size()))) {
      if (x < 0 || x > most) {
        throw DataError(file.path() + ": tensor " + quoted_name(t.name) + " has " +
                        std::to_string(x) + " as its number " + std::to_string(all.size()) +
                        ", expected 0 to " + std::to_string(most));
      }
      all.push_back(static_cast<Number>(x));
    }
  }
  return all;
}

std::vector<std::string> names_in(const std::string& path, const Metadata& metadata) {
  const auto found = metadata.find("labels");
  if (found == metadata.end()) return {};
  const auto list = nlohmann::json::parse(found->second, nullptr, false);
  const bool words = list.is_array() && !list.empty() &&
                     std::all_of(list.begin(), list.end(), [](auto& x) { return x.is_string(); });
  if (!words) throw DataError(path + ": 'labels' of its metadata is not a JSON list of names");
  return list.get<std::vector<std::string>>();
}

}  // namespace

void TokenFile::fail(const std::string& what) const { throw DataError(path_ + ": " + what); }

TokenFile::TokenFile(const std::string& path) : path_(path) {
  const SafetensorsReader file(path);
  const std::vector<std::string> known{"input_ids", "attention_mask", "token_type_ids", "labels"};
  for (const Tensor& t : file.tensors()) {
    if (std::find(known.begin(), known.end(), t.name) == known.end()) {
      fail("has a tensor " + quoted_name(t.name) + "; expected " + join(known, ", "));
    }
  }
  const auto tensor = [&](const std::string& name, bool required) -> const Tensor* {
    const Tensor* t = file.find(name);
    if (!t && required) fail("has no tensor '" + name + "'");
    if (t && t->dtype != "I64" && t->dtype != "I32") {
      fail("tensor '" + name + "' has dtype " + t->dtype + ", expected I64 or I32");
    }
    return t;
  };
  const auto require_shape_of = [&](const Tensor* t, const std::vector<std::size_t>& shape) {
    if (!t || t->shape == shape) return;
    fail("tensor '" + t->name + "' has shape " + to_string(t->shape) + ", expected " +
         to_string(shape));
  };
  const Tensor* ids = tensor("input_ids", true);
  const Tensor* mask = tensor("attention_mask", true);
  const Tensor* types = tensor("token_type_ids", false);
  const Tensor* labels = tensor("labels", false);
  if (ids->shape.size() != 2 || ids->size() == 0) {
    fail("tensor 'input_ids' has shape " + to_string(ids->shape) + ", expected [N, L]");
  }
  require_shape_of(mask, ids->shape);
  require_shape_of(types, ids->shape);
  rows_ = ids->shape[0];
  length_ = ids->shape[1];
  require_shape_of(labels, {rows_});
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  ids_ = narrowed<std::int32_t>(file, *ids, kMost);
  mask_ = narrowed<std::uint8_t>(file, *mask, 1);
  if (types) types_ = narrowed<std::int32_t>(file, *types, kMost);
  if (labels) labels_ = narrowed<std::int32_t>(file, *labels, kMost - 1);
  names_ = names_in(path, file.metadata());
  for (std::size_t row = 0; row < rows_; ++row) {
    const auto begin = mask_.begin() + static_cast<std::ptrdiff_t>(row * length_);
    const auto kept = std::count(begin, begin + static_cast<std::ptrdiff_t>(length_), 1);
    if (kept == 0) fail("the mask of row " + std::to_string(row) + " keeps no token");
    kept_ += static_cast<std::size_t>(kept);
  }
  if (!names_.empty() && labelled()) require_labels(0, names_.size());
}

std::size_t TokenFile::classes() const {
  if (!names_.empty() || !labelled()) return names_.size();
  return static_cast<std::size_t>(*std::max_element(labels_.begin(), labels_.end())) + 1;
}

void TokenFile::require_fits(const Transformer& trunk) const {
  const auto require = [&](const char* what, std::size_t at, std::size_t value, std::size_t rows) {
    if (value < rows) return;
    fail(std::string(what) + " " + std::to_string(value) + " in row " +
         std::to_string(at / length_) + ", the model has " + std::to_string(rows));
  };
  for (std::size_t at = 0; at < ids_.size(); ++at) {
    require("id", at, static_cast<std::size_t>(ids_[at]), trunk.vocabulary);
    if (!types_.empty() && trunk.types > 0) {
      require("type", at, static_cast<std::size_t>(types_[at]), trunk.types);
    }
    if (mask_[at] && !trunk.rope) require("position", at, at % length_, trunk.positions);
  }
}

void TokenFile::require_labels(std::size_t first, std::size_t last) const {
  if (!labelled()) fail("has no tensor 'labels'");
  for (std::size_t row = 0; row < rows_; ++row) {
    const auto label = static_cast<std::size_t>(labels_[row]);
    if (label >= first && label < last) continue;
    fail("label " + std::to_string(label) + " in row " + std::to_string(row) + ", expected " +
         std::to_string(first) + " to " + std::to_string(last - 1));
  }
}

void TokenFile::require_next() const {
  for (std::size_t row = 0; row < rows_; ++row) {
    const std::uint8_t* kept = mask_.data() + row * length_;
    bool any = false;
    for (std::size_t p = 0; p + 1 < length_; ++p) any = any || (kept[p] && kept[p + 1]);
    if (!any) fail("row " + std::to_string(row) + " has no token that another one follows");
  }
}

Tokens TokenFile::batch(std::span<const std::size_t> rows, bool keep_first) const {
  std::vector<std::int32_t> ids, types;
  std::vector<std::uint8_t> mask;
  const auto append = [&](auto& to, const auto& from, std::size_t row) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row * length_);
    to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(length_));
  };
  for (const std::size_t row : rows) {
    if (row >= rows_) {
      throw std::invalid_argument("TokenFile: no row " + std::to_string(row) + ", there are " +
                                  std::to_string(rows_));
    }
    append(ids, ids_, row);
    append(mask, mask_, row);
    if (!types_.empty()) append(types, types_, row);
  }
  return pack(ids, mask, length_, keep_first, types);
}

}  // namespace gradview
