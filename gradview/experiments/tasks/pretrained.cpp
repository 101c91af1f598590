#include "gradview/experiments/tasks/pretrained.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "gradview/core/error.hpp"
#include "gradview/core/text.hpp"
#include "gradview/io/safetensors.hpp"

namespace gradview {

std::string cache_folder(const TaskContext& context) {
  if (!context.cache.empty()) return context.cache;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg)
    return std::string(xdg) + "/gradview";
  if (const char* home = std::getenv("HOME"); home && *home)
    return std::string(home) + "/.cache/gradview";
  return std::filesystem::temp_directory_path().string() + "/gradview-cache";
}

Weights cached_weights(const std::string& folder, const std::string& kind, const std::string& key,
                       const Weights& like, const std::function<Weights()>& make) {
  const std::string path = fmt::format("{}/{}-{:016x}.safetensors", folder, kind, fnv1a(key));
  try {
    const SafetensorsReader file(path);
    const auto made_by = file.metadata().find("made_by");
    if (made_by != file.metadata().end() && made_by->second == key) {
      Weights weights;
      for (const auto& [name, value] : like) {
        const Tensor* tensor = file.find(name);
        Matrix stored = tensor ? file.matrix(*tensor) : Matrix();
        if (shape_of(stored) != shape_of(value)) throw DataError(path + ": another network");
        weights.add(name, std::move(stored));
      }
      return weights;
    }
  } catch (const DataError&) {  // not there, or damaged: it is made again
  }
  Weights weights = make();
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  try {
    save_safetensors(path, {weights.begin(), weights.end()}, {{"made_by", key}});
  } catch (const IoError& error) {
    fmt::print(stderr, "note: {}\n", error.what());
  }
  return weights;
}

std::shared_ptr<const Weights> Starts::of(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  auto& start = starts_[seed];
  if (!start) start = std::make_shared<const Weights>(make_(seed));
  return start;
}

}  // namespace gradview
