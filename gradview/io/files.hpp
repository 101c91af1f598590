// Whole files: read, replaced, appended to, and fingerprinted.
#pragma once

#include <string>

namespace gradview {

std::string read_text(const std::string& path);       // DataError; regular files only
std::string sha256_of_file(const std::string& path);  // 64 hexadecimal digits; DataError

// The old text or the new one is there at any time, also after a crash. IoError.
void write_atomically(const std::string& path, const std::string& text);
// All of the text or nothing: after a failure the file is cut back to its old length. IoError.
// For one writer at a time, who makes the file if need be. Not synced.
void append_whole(const std::string& path, const std::string& text);

}  // namespace gradview
