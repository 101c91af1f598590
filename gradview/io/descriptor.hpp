// Files by descriptor: opened without waiting, read and written whole, every failure named.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace gradview {

// "path: cannot write: No space left on device"
std::string system_message(const std::string& path, const char* what, int error);

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();

  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

struct Moved {
  std::size_t bytes;
  int error;  // 0 at the end of a file
};

// Repeats `transfer(done)`, a read or write of the rest, until all `size` bytes have moved.
template <class Transfer>
Moved move_whole(std::size_t size, Transfer transfer) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t moved = transfer(done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return {done, errno};
    if (moved == 0) break;
    done += static_cast<std::size_t>(moved);
  }
  return {done, 0};
}

// A regular file open for reading; a FIFO, a device or a folder is refused. Fails with DataError.
class InputFile {
 public:
  explicit InputFile(std::string path);

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }  // bytes, as it was when opened
  // The number of bytes read: less than `size` only at the end of the file.
  std::size_t read_at(std::uint64_t offset, void* out, std::size_t size) const;
  void read_exactly(std::uint64_t offset, void* out, std::size_t size) const;

 private:
  std::string path_;
  Descriptor file_;
  std::uint64_t size_ = 0;
};

// A file that appears under its name only when committed: until then the old one, or none, is
// there. Fails with IoError; beyond RLIMIT_FSIZE only where the program ignores SIGXFSZ.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);  // the temporary file is `path`.<process>-<number>.tmp
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();  // removes the temporary file if it was not committed

  const std::string& path() const { return path_; }
  void write_at(std::uint64_t offset, const void* data, std::size_t size);
  void commit();  // fsync, rename, fsync of the folder

 private:
  std::string path_, temporary_;
  Descriptor file_;
};

}  // namespace gradview
