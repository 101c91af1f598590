#include "gradview/experiments/tasks/images.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <numbers>
#include <numeric>

#include "gradview/core/error.hpp"
#include "gradview/io/idx.hpp"

namespace gradview {

Matrix Images::batch(std::span<const std::size_t> indices) const {
  static const auto kScaled = [] {
    std::array<Real, 256> table;
    for (std::size_t i = 0; i < 256; ++i)
      table[i] = static_cast<Real>(static_cast<double>(i) / 255);
    return table;
  }();
  const std::size_t area = height * width;
  Matrix x = uninitialized({indices.size(), area});
  Real* out = x.data();
  for (const std::size_t index : indices) {
    const std::uint8_t* image = pixels.data() + index * area;
    for (std::size_t i = 0; i < area; ++i) *out++ = kScaled[image[i]];
  }
  return x;
}

std::vector<std::uint8_t> Images::labels_of(std::span<const std::size_t> indices) const {
  std::vector<std::uint8_t> out;
  for (const std::size_t index : indices) out.push_back(labels[index]);
  return out;
}

Matrix Images::all() const {
  std::vector<std::size_t> indices(size());
  std::iota(indices.begin(), indices.end(), std::size_t{0});
  return batch(indices);
}

Images Images::subset(std::span<const std::size_t> indices) const {
  const std::size_t area = height * width;
  Images out{height, width, {}, labels_of(indices)};
  out.pixels.reserve(indices.size() * area);
  for (const std::size_t index : indices) {
    const auto image = pixels.begin() + static_cast<std::ptrdiff_t>(index * area);
    out.pixels.insert(out.pixels.end(), image, image + static_cast<std::ptrdiff_t>(area));
  }
  return out;
}

std::string image_file(const std::string& folder, const std::string& name) {
  const std::string plain = folder + "/" + name;
  return std::filesystem::exists(plain) && !std::filesystem::exists(plain + ".gz") ? plain
                                                                                   : plain + ".gz";
}

Images read_images(const std::string& folder, const std::string& prefix, std::size_t classes) {
  const std::string image_path = image_file(folder, prefix + "-images-idx3-ubyte");
  const std::string label_path = image_file(folder, prefix + "-labels-idx1-ubyte");
  IdxArray images = read_idx(image_path);
  IdxArray labels = read_idx(label_path);
  if (images.shape.size() != 3 || images.values.empty()) {
    throw DataError(image_path + ": not a stack of images (its rank is " +
                    std::to_string(images.shape.size()) + ", expected 3)");
  }
  if (labels.shape.size() != 1 || labels.shape[0] != images.shape[0]) {
    throw DataError(label_path + ": " + std::to_string(labels.values.size()) + " labels for the " +
                    std::to_string(images.shape[0]) + " images of " + image_path);
  }
  const auto largest = std::max_element(labels.values.begin(), labels.values.end());
  if (*largest >= classes) {
    throw DataError(label_path + ": image " + std::to_string(largest - labels.values.begin()) +
                    " has the label " + std::to_string(*largest) + ", expected less than " +
                    std::to_string(classes));
  }
  return {images.shape[1], images.shape[2], std::move(images.values), std::move(labels.values)};
}

Images rotated(const Images& images, double degrees) {
  const double angle = degrees * std::numbers::pi / 180;
  const bool right_angle = std::fmod(degrees, 90.0) == 0;
  const double c = right_angle ? std::round(std::cos(angle)) : std::cos(angle);
  const double s = right_angle ? std::round(std::sin(angle)) : std::sin(angle);
  const auto height = static_cast<std::ptrdiff_t>(images.height);
  const auto width = static_cast<std::ptrdiff_t>(images.width);
  const double row0 = static_cast<double>(height - 1) / 2;
  const double col0 = static_cast<double>(width - 1) / 2;
  struct Tap {
    std::size_t from;
    double weight;
  };
  std::vector<std::vector<Tap>> taps;  // per pixel of the result
  for (std::ptrdiff_t i = 0; i < height; ++i) {
    for (std::ptrdiff_t j = 0; j < width; ++j) {
      const double y = static_cast<double>(i) - row0;
      const double x = static_cast<double>(j) - col0;
      const double from_row = row0 + c * y + s * x;  // rows grow downwards
      const double from_col = col0 - s * y + c * x;
      const double row = std::floor(from_row);
      const double col = std::floor(from_col);
      std::vector<Tap> near;
      for (const double r : {row, row + 1}) {
        for (const double k : {col, col + 1}) {
          const double weight = (1 - std::abs(from_row - r)) * (1 - std::abs(from_col - k));
          if (weight <= 0 || r < 0 || k < 0 || r >= static_cast<double>(height) ||
              k >= static_cast<double>(width)) {
            continue;
          }
          near.push_back(
              {static_cast<std::size_t>(r) * images.width + static_cast<std::size_t>(k), weight});
        }
      }
      taps.push_back(std::move(near));
    }
  }
  Images out{images.height, images.width, std::vector<std::uint8_t>(images.pixels.size()),
             images.labels};
  const std::size_t area = images.height * images.width;
  for (std::size_t image = 0; image < images.size(); ++image) {
    const std::uint8_t* from = images.pixels.data() + image * area;
    for (std::size_t pixel = 0; pixel < area; ++pixel) {
      double value = 0;
      for (const Tap& tap : taps[pixel]) value += tap.weight * from[tap.from];
      out.pixels[image * area + pixel] = static_cast<std::uint8_t>(std::lround(value));
    }
  }
  return out;
}

}  // namespace gradview
