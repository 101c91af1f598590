// Tokenised texts as a safetensors: input_ids and attention_mask [N, L], token_type_ids [N, L] where
// the model has types, labels [N] where the texts have classes; I64 or I32. The metadata may name the
// classes: "labels", a JSON list of words.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gradview/models/transformer.hpp"

namespace gradview {

class TokenFile {
 public:
  // DataError "path: …" on anything that is not such a file: other shapes or dtypes, a mask that is
  // not of 0 and 1, a row that it empties, a negative id, an unknown tensor.
  explicit TokenFile(const std::string& path);

  const std::string& path() const { return path_; }
  std::size_t size() const { return rows_; }      // N
  std::size_t length() const { return length_; }  // L
  std::size_t tokens() const { return kept_; }    // that the mask keeps
  bool labelled() const { return !labels_.empty(); }
  std::span<const std::int32_t> labels() const { return labels_; }
  const std::vector<std::string>& label_names() const { return names_; }  // empty: not named
  std::size_t classes() const;  // as many as are named; else the largest label + 1; 0 without any

  // DataError where an id, a type or a position is outside the tables of the model.
  void require_fits(const Transformer& trunk) const;
  // DataError where there are no labels, or one is outside [first, last).
  void require_labels(std::size_t first, std::size_t last) const;
  // DataError where a row has no token that another one follows, so that there is nothing to predict.
  void require_next() const;

  // The rows of these numbers, packed (see pack). std::invalid_argument where one is not there.
  Tokens batch(std::span<const std::size_t> rows, bool keep_first) const;

 private:
  [[noreturn]] void fail(const std::string& what) const;

  std::string path_;
  std::size_t rows_ = 0, length_ = 0, kept_ = 0;
  std::vector<std::int32_t> ids_, types_, labels_;
  std::vector<std::uint8_t> mask_;
  std::vector<std::string> names_;
};

}  // namespace gradview
