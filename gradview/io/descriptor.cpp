// Files by descriptor, on POSIX calls.
#include "gradview/io/descriptor.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "gradview/core/error.hpp"

namespace gradview {
namespace {

[[noreturn]] void fail_to(const char* what, const std::string& path) {
  throw IoError(system_message(path, what, errno));
}

std::string temporary_name(const std::string& path) {
  static std::atomic<unsigned> count = 0;
  return path + "." + std::to_string(getpid()) + "-" + std::to_string(count++) + ".tmp";
}

void sync_folder_of(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  const Descriptor opened(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened) fail_to("cannot open", folder);
  // Some file systems have nothing to sync for a folder and answer EINVAL.
  if (fsync(opened.number()) != 0 && errno != EINVAL) fail_to("cannot sync", folder);
}

}  // namespace

std::string system_message(const std::string& path, const char* what, int error) {
  return path + ": " + what + ": " + std::generic_category().message(error);
}

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

InputFile::InputFile(std::string path)
    : path_(std::move(path)), file_(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  struct stat status = {};
  if (!file_ || fstat(file_.number(), &status) != 0) {
    throw DataError(system_message(path_, "cannot open", errno));
  }
  if (!S_ISREG(status.st_mode)) {
    const char* kind = S_ISDIR(status.st_mode) ? "a folder" : "a pipe or device";
    throw DataError(path_ + ": is " + kind + ", expected a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

std::size_t InputFile::read_at(std::uint64_t offset, void* out, std::size_t size) const {
  const Moved moved = move_whole(size, [&](std::size_t done) {
    return pread(file_.number(), static_cast<char*>(out) + done, size - done,
                 static_cast<off_t>(offset + done));
  });
  if (moved.error != 0) throw DataError(system_message(path_, "cannot read", moved.error));
  return moved.bytes;
}

void InputFile::read_exactly(std::uint64_t offset, void* out, std::size_t size) const {
  const std::size_t got = read_at(offset, out, size);
  if (got < size) {
    throw DataError(path_ + ": ends at byte " + std::to_string(offset + got) + ", expected " +
                    std::to_string(offset + size));
  }
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(temporary_name(path_)) {
  struct stat status = {};
  if (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw IoError(path_ + ": cannot be replaced: it is not a regular file");
  }
  file_ = Descriptor(
      open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!file_) fail_to("cannot create", path_);
}

AtomicFile::~AtomicFile() {
  if (file_) unlink(temporary_.c_str());
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
  const Moved moved = move_whole(size, [&](std::size_t done) {
    return pwrite(file_.number(), static_cast<const char*>(data) + done, size - done,
                  static_cast<off_t>(offset + done));
  });
  if (moved.bytes < size) throw IoError(system_message(path_, "cannot write", moved.error));
}

void AtomicFile::commit() {
  if (fsync(file_.number()) != 0) fail_to("cannot write", path_);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_to("cannot replace", path_);
  file_ = Descriptor();
  sync_folder_of(path_);
}

}  // namespace gradview
