// Whole files, on descriptors and OpenSSL's SHA-256.
#include "gradview/io/files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <new>
#include <vector>

#include "gradview/core/error.hpp"
#include "gradview/io/descriptor.hpp"

namespace gradview {
namespace {

constexpr std::size_t part_size = std::size_t{1} << 18;

// Hands the file over in parts, up to its end as found by reading (a size says nothing in /proc).
template <class Consumer>
void read_in_parts(const std::string& path, Consumer consume) {
  const InputFile file(path);
  std::vector<char> part(part_size);
  std::uint64_t offset = 0;
  while (const std::size_t got = file.read_at(offset, part.data(), part.size())) {
    consume(part.data(), got);
    offset += got;
  }
}

}  // namespace

std::string read_text(const std::string& path) {
  std::string text;
  read_in_parts(path, [&](const char* data, std::size_t size) { text.append(data, size); });
  return text;
}

std::string sha256_of_file(const std::string& path) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash(EVP_MD_CTX_new(),
                                                                     EVP_MD_CTX_free);
  if (!hash || EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  read_in_parts(
      path, [&](const char* data, std::size_t size) { EVP_DigestUpdate(hash.get(), data, size); });
  unsigned char digest[32];
  EVP_DigestFinal_ex(hash.get(), digest, nullptr);
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

void write_atomically(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write_at(0, text.data(), text.size());
  file.commit();
}

void append_whole(const std::string& path, const std::string& text) {
  const Descriptor file(
      open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666));
  struct stat before = {};
  if (!file || fstat(file.number(), &before) != 0) {
    throw IoError(system_message(path, "cannot open", errno));
  }
  const Moved moved = move_whole(text.size(), [&](std::size_t done) {
    return write(file.number(), text.data() + done, text.size() - done);
  });
  if (moved.bytes == text.size()) return;
  const bool restored = moved.bytes == 0 || ftruncate(file.number(), before.st_size) == 0;
  throw IoError(system_message(path, "cannot write", moved.error) +
                (restored ? "" : "; its last line is torn"));
}

}  // namespace gradview
