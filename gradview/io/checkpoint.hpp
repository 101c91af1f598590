// Checkpoint: matrices by their names and a few words, in one safetensors. At any time the old one or
// the new one is there, whole.
#pragma once

#include <functional>
#include <string>

#include "gradview/core/matrix.hpp"
#include "gradview/io/safetensors.hpp"

namespace gradview {

// Visits every matrix of a state under a name of its own, always in the same order.
using StateVisit = std::function<void(const std::string& name, Matrix& value)>;
using State = std::function<void(const StateVisit& visit)>;

// IoError; std::invalid_argument where a name comes twice.
void write_checkpoint(const std::string& path, const State& state, Metadata words);

class CheckpointReader {
 public:
  // CheckpointError "path: …" on what is missing, cut short or altered, here and below.
  explicit CheckpointReader(std::string path);

  const std::string& word(const std::string& key) const;
  // The word's number; anything else is an error.
  double number(const std::string& key) const;
  // Every matrix gets its value; a name too few or too many is an error.
  void restore(const State& state) const;

 private:
  [[noreturn]] void fail(const std::string& what) const;

  std::string path_;
  std::map<std::string, Matrix> values_;
  Metadata words_;
};

}  // namespace gradview
