// The kinds of failure that a program tells apart by its exit code. Usage errors are
// std::invalid_argument.
#pragma once

#include <stdexcept>
#include <string>

namespace gradview {

struct Error : std::runtime_error {
  Error(int code, const std::string& message) : std::runtime_error(message), exit_code(code) {}
  int exit_code;
};

struct DataError : Error {  // an input file is missing, corrupt, or disagrees with another
  explicit DataError(const std::string& message) : Error(3, message) {}
};
struct DivergedError : Error {  // nothing finite is left to report
  explicit DivergedError(const std::string& message) : Error(4, message) {}
};
struct IoError : Error {  // an output cannot be written
  explicit IoError(const std::string& message) : Error(5, message) {}
};
struct CheckpointError : Error {  // a state to go on from is unusable
  explicit CheckpointError(const std::string& message) : Error(6, message) {}
};
struct CheckFailed : Error {  // a measured identity is off
  explicit CheckFailed(const std::string& message) : Error(7, message) {}
};

}  // namespace gradview
