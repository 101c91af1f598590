// IDX on zlib's inflate: unlike gzread it tells a missing trailer, a second member and an end
// apart.
#include "gradview/io/idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "gradview/core/error.hpp"
#include "gradview/io/descriptor.hpp"

namespace gradview {
namespace {

constexpr std::size_t kLargest = std::size_t{1} << 31;
constexpr std::size_t kGrowth = std::size_t{1} << 20;

// The bytes of a file in order, inflated on the way if it starts as gzip does.
class ByteStream {
 public:
  explicit ByteStream(const std::string& path) : file_(path), buffer_(std::size_t{1} << 16) {
    refill();
    gzip_ = stream_.avail_in >= 2 && buffer_[0] == 0x1f && buffer_[1] == 0x8b;
    if (gzip_ && inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) throw std::bad_alloc();
  }
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;
  ~ByteStream() {
    if (gzip_) inflateEnd(&stream_);
  }

  // The number of bytes read: less than `size` only at the end.
  std::size_t read(std::uint8_t* out, std::size_t size) {
    stream_.next_out = out;
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out > 0 && !ended_) {
      if (stream_.avail_in == 0) refill();
      gzip_ ? inflate_some() : copy_some();
    }
    return size - stream_.avail_out;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(file_.path() + ": " + what);
  }

 private:
  void refill() {
    stream_.next_in = buffer_.data();
    stream_.avail_in = static_cast<uInt>(file_.read_at(offset_, buffer_.data(), buffer_.size()));
    offset_ += stream_.avail_in;
  }

  void copy_some() {
    const uInt n = std::min(stream_.avail_in, stream_.avail_out);
    ended_ = n == 0;
    std::memcpy(stream_.next_out, stream_.next_in, n);
    stream_.next_in += n, stream_.avail_in -= n;
    stream_.next_out += n, stream_.avail_out -= n;
  }

  void inflate_some() {
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_BUF_ERROR) fail("the gzip stream is cut off, expected its end and checksum");
    if (status != Z_OK && status != Z_STREAM_END) {
      fail(std::string("the gzip stream is damaged: ") +
           (stream_.msg ? stream_.msg : "zlib error"));
    }
    if (status == Z_OK) return;
    ended_ = true;
    if (stream_.avail_in == 0) refill();
    if (stream_.avail_in > 0) fail("has bytes after its gzip stream, expected exactly one stream");
  }

  InputFile file_;
  std::vector<std::uint8_t> buffer_;
  std::uint64_t offset_ = 0;
  z_stream stream_ = {};
  bool gzip_ = false, ended_ = false;
};

std::vector<std::size_t> read_shape(ByteStream& stream) {
  std::uint8_t head[4];
  if (stream.read(head, 4) < 4) stream.fail("is too short, expected an IDX header");
  if (head[0] != 0 || head[1] != 0) stream.fail("is not IDX, expected two zero bytes at its start");
  if (head[2] != 0x08) {
    stream.fail("holds IDX type " + std::to_string(head[2]) + ", expected 8 (unsigned byte)");
  }
  if (head[3] < 1 || head[3] > 4) {
    stream.fail("has " + std::to_string(head[3]) + " dimensions, expected 1 to 4");
  }
  std::vector<std::size_t> shape;
  for (int i = 0; i < head[3]; ++i) {
    std::uint8_t b[4];
    if (stream.read(b, 4) < 4) stream.fail("ends inside its IDX header");
    shape.push_back(std::size_t{b[0]} << 24 | std::size_t{b[1]} << 16 | std::size_t{b[2]} << 8 |
                    b[3]);
  }
  return shape;
}

}  // namespace

IdxArray read_idx(const std::string& path) {
  ByteStream stream(path);
  IdxArray array{read_shape(stream), {}};
  std::size_t size = 1;
  for (const std::size_t n : array.shape) {
    if (n != 0 && size > kLargest / n) stream.fail("claims more than 2^31 values");
    size *= n;
  }
  while (array.values.size() < size) {
    const std::size_t had = array.values.size(), wanted = std::min(kGrowth, size - had);
    array.values.resize(had + wanted);
    const std::size_t got = stream.read(array.values.data() + had, wanted);
    if (got < wanted) {
      stream.fail("ends after " + std::to_string(had + got) + " values, expected " +
                  std::to_string(size));
    }
  }
  std::uint8_t extra;
  if (stream.read(&extra, 1) != 0) {
    stream.fail("has bytes after its values, expected " + std::to_string(size));
  }
  return array;
}

}  // namespace gradview
