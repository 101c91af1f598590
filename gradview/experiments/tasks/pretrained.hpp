// Pre-trained starts, kept in a folder under what made them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "gradview/experiments/task.hpp"

namespace gradview {

std::string cache_folder(const TaskContext& context);  // its own, or the user's

// The weights that `make` gives, from FOLDER/KIND-… where they are there, whole, and made by `key`;
// made and kept otherwise. like: their names and shapes. A folder that cannot be written costs a note
// on stderr only.
Weights cached_weights(const std::string& folder, const std::string& kind, const std::string& key,
                       const Weights& like, const std::function<Weights()>& make);

// The starts of several seeds, each made once, by whichever thread asks first.
class Starts {
 public:
  explicit Starts(std::function<Weights(std::uint64_t seed)> make) : make_(std::move(make)) {}
  std::shared_ptr<const Weights> of(std::uint64_t seed);

 private:
  std::function<Weights(std::uint64_t)> make_;
  std::map<std::uint64_t, std::shared_ptr<const Weights>> starts_;
  std::mutex mutex_;
};

}  // namespace gradview
