// Labelled grey images of one size, as bytes, and what a shift does to them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gradview/core/matrix.hpp"

namespace gradview {

struct Images {
  std::size_t height = 0, width = 0;
  std::vector<std::uint8_t> pixels;  // count x height x width
  std::vector<std::uint8_t> labels;  // count

  std::size_t size() const { return labels.size(); }
  Matrix batch(std::span<const std::size_t> indices) const;  // N x (height · width), in [0, 1]
  std::vector<std::uint8_t> labels_of(std::span<const std::size_t> indices) const;
  Matrix all() const;
  Images subset(std::span<const std::size_t> indices) const;
};

// Reads the pair FOLDER/PREFIX-images-idx3-ubyte and -labels-idx1-ubyte, each with .gz or without.
// Throws DataError where one is missing or damaged, they disagree, or a label is `classes` or more.
Images read_images(const std::string& folder, const std::string& prefix, std::size_t classes);
// The file that read_images takes: with .gz, or without where only that is there.
std::string image_file(const std::string& folder, const std::string& name);

// Every image turned counter-clockwise about its centre, bilinear, black outside; exact at
// multiples of 90 degrees.
Images rotated(const Images& images, double degrees);

}  // namespace gradview
