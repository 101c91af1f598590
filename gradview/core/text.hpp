// Words and numbers as users read and write them: exact, locale-free, and kind about typing errors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gradview {

// The shortest decimal that reads back as the same double; "nan", "inf", "-inf" otherwise.
std::string exact(double value);
// The whole of `text` as a finite number; nothing where it is not one (so "nan", "1e999", "3x", ""
// are refused).
std::optional<double> parse_number(std::string_view text);
std::optional<std::int64_t> parse_integer(std::string_view text);
// As parse_number, and takes what exact() writes for non-finite values.
std::optional<double> parse_exact(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& words, std::string_view separator);

// The choice that is the fewest edits away, empty where none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& choices);
// "; did you mean 'lora'?" or "" — for the end of an error message.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& choices);

// FNV-1a: a stable 64-bit number for a name or a cache key.
std::uint64_t fnv1a(std::string_view text);

}  // namespace gradview
