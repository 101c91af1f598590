// Pre-trained starts, kept in a folder under what made them.
#pragma once

#include <functional>
#include <string>

#include "gradview/experiments/task.hpp"

namespace gradview {

std::string cache_folder(const TaskContext& context);  // its own, or the user's

// The weights that `make` gives, from FOLDER/KIND-… where they are there, whole, and made by `key`;
// made and kept otherwise. like: their names and shapes. A folder that cannot be written costs a note
// on stderr only.
Weights cached_weights(const std::string& folder, const std::string& kind, const std::string& key,
                       const Weights& like, const std::function<Weights()>& make);

}  // namespace gradview
