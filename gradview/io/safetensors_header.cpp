// The header of safetensors, on the event parser of nlohmann's JSON: it does not recurse, and a
// value in the wrong place ends it, so neither depth nor size of a hostile header costs more than
// its bytes.
#include "gradview/io/safetensors_header.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "gradview/core/error.hpp"

namespace gradview {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

namespace {

using nlohmann::json;

std::optional<std::uint64_t> bits_of(std::string_view dtype) {
  static const std::map<std::string_view, std::uint64_t> bits = {
      {"BOOL", 8}, {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8},     {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"I16", 16}, {"F8_E5M2FNUZ", 8}, {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32}, {"U32", 32},        {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64}, {"U64", 64}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? std::nullopt : std::optional(found->second);
}

class HeaderParser : public nlohmann::json_sax<json> {
 public:
  explicit HeaderParser(const std::string& path) : path_(path) {}

  std::map<std::string, Tensor> tensors;
  Metadata metadata;

  bool start_object(std::size_t) override {
    if (place_ == Place::file) return go(Place::header);
    if (place_ != Place::header) return wrong("an object");
    keys_.clear();
    return go(tensor_ ? Place::tensor : Place::metadata);
  }

  bool key(std::string& name) override {
    key_ = name;
    if (place_ == Place::header) {
      tensor_ = nullptr;
      if (name == "__metadata__") return std::exchange(has_metadata_, true) ? twice() : true;
      const auto [entry, fresh] = tensors.try_emplace(name);
      tensor_ = &entry->second;
      tensor_->name = name;
      return fresh || twice();
    }
    const bool known = name == "dtype" || name == "shape" || name == "data_offsets";
    if (place_ == Place::tensor && !known) return fail("has an unknown key " + where());
    return keys_.insert(name).second || twice();
  }

  bool end_object() override {
    if (place_ == Place::tensor && keys_.size() < 3) {
      return fail("tensor " + quoted_name(tensor_->name) +
                  " lacks one of dtype, shape, data_offsets");
    }
    return go(place_ == Place::header ? Place::end : Place::header);
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || key_ == "dtype") return wrong("an array");
    return go(key_ == "shape" ? Place::shape : Place::offsets);
  }

  bool end_array() override {
    if (place_ == Place::offsets) {
      if (offsets_.size() != 2) return fail("expected two numbers at " + where());
      tensor_->begin = offsets_[0];
      tensor_->end = offsets_[1];
      offsets_.clear();
    }
    return go(Place::tensor);
  }

  bool number_unsigned(std::uint64_t value) override {
    if (place_ != Place::shape && place_ != Place::offsets) return wrong("a number");
    (place_ == Place::shape ? tensor_->shape : offsets_).push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      metadata[key_] = std::move(value);
    } else if (place_ == Place::tensor && key_ == "dtype") {
      if (!bits_of(value))
        return fail("has an unknown dtype " + quoted_name(value) + " at " + where());
      tensor_->dtype = std::move(value);
    } else {
      return wrong("a string");
    }
    return true;
  }

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_integer(std::int64_t) override { return wrong("a negative number"); }
  bool number_float(double, const std::string&) override {
    return wrong("a fraction or too large a number");
  }
  bool binary(json::binary_t&) override { return wrong("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return fail("is not valid JSON at byte " + std::to_string(position));
  }

 private:
  enum class Place { file, header, metadata, tensor, shape, offsets, end };

  bool go(Place place) {
    place_ = place;
    return true;
  }

  std::string where() const {
    if (place_ <= Place::header) return quoted_name(key_);
    return quoted_name((tensor_ ? tensor_->name : "__metadata__") + "." + key_);
  }

  bool wrong(const char* got) const {
    const char* expected = "an array";
    if (place_ <= Place::header) {
      expected = "an object";
    } else if (place_ == Place::shape || place_ == Place::offsets) {
      expected = "an unsigned integer";
    } else if (place_ == Place::metadata || key_ == "dtype") {
      expected = "a string";
    }
    return fail(std::string("has ") + got + " at " + where() + ", expected " + expected);
  }

  bool twice() const { return fail("has the key " + where() + " twice"); }
  [[noreturn]] bool fail(const std::string& what) const {
    throw DataError(path_ + ": the header " + what);
  }

  const std::string& path_;
  Place place_ = Place::file;
  std::string key_;
  std::set<std::string> keys_;  // of the object at hand
  Tensor* tensor_ = nullptr;
  std::vector<std::size_t> offsets_;
  bool has_metadata_ = false;
};

void check_extent(const std::string& path, const Tensor& t) {
  const auto bits = bits_in(t.shape, *bits_of(t.dtype));
  const std::string who = path + ": tensor " + quoted_name(t.name);
  if (t.end < t.begin) throw DataError(who + " ends before it begins");
  if (!bits) throw DataError(who + " has more elements than 64 bits can count");
  if (*bits % 8 != 0) throw DataError(who + " does not fill whole bytes");
  if (*bits / 8 != t.end - t.begin) {
    throw DataError(who + " takes " + std::to_string(t.end - t.begin) + " bytes, expected " +
                    std::to_string(*bits / 8) + " for its dtype and shape");
  }
}

// The tensors fill the data from the first byte to the last, without holes or overlaps.
void check_cover(const std::string& path, const std::vector<Tensor>& tensors,
                 std::uint64_t data_size) {
  std::vector<const Tensor*> order;
  for (const Tensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::uint64_t end = 0;
  for (const Tensor* t : order) {
    if (t->begin != end) {
      throw DataError(path + ": tensor " + quoted_name(t->name) + " begins at byte " +
                      std::to_string(t->begin) + ", expected " + std::to_string(end));
    }
    end = t->end;
  }
  if (end != data_size) {
    throw DataError(path + ": holds " + std::to_string(data_size) + " bytes of values, expected " +
                    std::to_string(end));
  }
}

}  // namespace

std::string quoted_name(std::string_view name) {
  std::string text(name.substr(0, 80));
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; }, '?');
  return "'" + text + (name.size() > 80 ? "…'" : "'");
}

std::optional<std::uint64_t> bits_in(const std::vector<std::size_t>& shape,
                                     std::uint64_t bits_each) {
  std::uint64_t bits = 1;
  for (const std::size_t n : shape) {
    if (__builtin_mul_overflow(bits, std::uint64_t{n}, &bits)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bits, bits_each, &bits)) return std::nullopt;
  return bits;
}

SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view text,
                                           std::uint64_t data_size) {
  if (text.empty() || text[0] != '{')
    throw DataError(path + ": the header does not start with '{'");
  // nlohmann takes a zero byte for the end and would skip whatever comes after it.
  if (text.find('\0') != text.npos) throw DataError(path + ": the header has a zero byte");
  HeaderParser parser(path);
  json::sax_parse(text.begin(), text.end(), &parser);
  SafetensorsHeader header{{}, std::move(parser.metadata)};
  for (auto& [name, tensor] : parser.tensors) {
    check_extent(path, tensor);
    header.tensors.push_back(std::move(tensor));
  }
  check_cover(path, header.tensors, data_size);
  return header;
}

std::string format_safetensors_header(const SafetensorsHeader& header) {
  json object = {{"__metadata__", header.metadata}};
  for (const Tensor& t : header.tensors) {
    object[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {t.begin, t.end}}};
  }
  std::string text;
  try {
    text = object.dump();
  } catch (const json::exception&) {
    throw std::invalid_argument("safetensors: names and metadata are not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > largest_safetensors_header) {
    throw std::invalid_argument("safetensors: the header exceeds 100,000,000 bytes");
  }
  const std::uint64_t size = text.size();
  char length[sizeof size];
  std::memcpy(length, &size, sizeof size);
  return std::string(length, sizeof size) + text;
}

}  // namespace gradview
