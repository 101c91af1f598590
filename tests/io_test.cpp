// What the readers refuse and why, what comes back from a round trip, and what a full disk leaves
// behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>

#include "expect_error.hpp"
#include "gradview/core/error.hpp"
#include "gradview/io/csv.hpp"
#include "gradview/io/files.hpp"
#include "gradview/io/idx.hpp"
#include "gradview/io/safetensors.hpp"

namespace gradview {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;

struct Case {
  std::string input, what;  // what the error says
};

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "gradview-io-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string file(const std::string& bytes) const {  // the path of a new file
    const std::string path = *this / ("file" + std::to_string(count_++));
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
  mutable int count_ = 0;
};

// Holds a resource of this process down for as long as it lives.
class Limit {
 public:
  Limit(int resource, rlim_t amount) : resource_(resource), signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(limited(), &before_);
    const rlimit small{amount, before_.rlim_max};
    setrlimit(limited(), &small);
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
  ~Limit() {
    setrlimit(limited(), &before_);
    std::signal(SIGXFSZ, signal_);
  }

 private:
  __rlimit_resource limited() const { return static_cast<__rlimit_resource>(resource_); }

  int resource_;
  rlimit before_ = {};
  void (*signal_)(int);
};

// ---- every reader ----------------------------------------------------------------------------

TEST(Readers, RefuseWhatIsNoRegularFileWithoutWaiting) {
  const Folder folder;
  const std::string fifo = folder / "fifo", loop = folder / "loop", locked = folder.file("x");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink(loop, loop);
  fs::permissions(locked, fs::perms::none);
  std::vector<Case> cases = {{folder / "missing", "missing: cannot open: No such file"},
                             {folder / "", "is a folder, expected a regular file"},
                             {fifo, "fifo: is a pipe or device"},
                             {"/dev/zero", "/dev/zero: is a pipe or device"},
                             {loop, "loop: cannot open: Too many levels"}};
  if (geteuid() != 0) cases.push_back({locked, "Permission denied"});
  for (const Case& c : cases) {
    expect_error<DataError>(c.what, [&] { read_idx(c.input); });
    expect_error<DataError>(c.what, [&] { SafetensorsReader reader(c.input); });
    expect_error<DataError>(c.what, [&] { read_csv(c.input); });
    expect_error<DataError>(c.what, [&] { read_text(c.input); });
    expect_error<DataError>(c.what, [&] { sha256_of_file(c.input); });
  }
}

// ---- IDX -------------------------------------------------------------------------------------

std::string gzip(const std::string& bytes) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  std::string in = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string flipped(std::string bytes, std::size_t from_end) {
  bytes[bytes.size() - from_end] = static_cast<char>(bytes[bytes.size() - from_end] ^ 0x10);
  return bytes;
}

std::string idx_header(const std::vector<std::uint32_t>& shape) {
  std::string bytes = "\0\0\x08"s + static_cast<char>(shape.size());
  for (const std::uint32_t n : shape) {
    for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(n >> shift);
  }
  return bytes;
}

const std::string small_idx = idx_header({2, 3}) + "\x01\x02\x03\x04\x05\xff"s;

TEST(Idx, ReadsPlainAndGzip) {
  const Folder folder;
  for (const std::string& bytes : {small_idx, gzip(small_idx)}) {
    const IdxArray array = read_idx(folder.file(bytes));
    EXPECT_EQ(array.shape, (std::vector<std::size_t>{2, 3}));
    EXPECT_EQ(array.values, (std::vector<std::uint8_t>{1, 2, 3, 4, 5, 255}));
  }
  const IdxArray none = read_idx(folder.file(idx_header({0, 28, 28})));
  EXPECT_EQ(none.shape, (std::vector<std::size_t>{0, 28, 28}));
  EXPECT_TRUE(none.values.empty());
}

TEST(Idx, ReadsWhatIsLargerThanItsBuffers) {
  const Folder folder;
  std::string values(3'000'001, '\0');
  std::uint32_t state = 1;  // noise, so that the compressed file spans many buffers too
  for (char& c : values) c = static_cast<char>((state = state * 1664525U + 1013904223U) >> 24);
  const std::string bytes = idx_header({3'000'001}) + values;
  for (const std::string& stored : {bytes, gzip(bytes)}) {
    const IdxArray array = read_idx(folder.file(stored));
    ASSERT_EQ(array.values.size(), values.size());
    EXPECT_EQ(std::memcmp(array.values.data(), values.data(), values.size()), 0);
  }
}

TEST(Idx, RefusesWhatIsNotOneWholeArray) {
  const Folder folder;
  const std::string packed = gzip(small_idx);
  const std::vector<Case> cases = {
      {"", "is too short, expected an IDX header"},
      {gzip(""), "is too short, expected an IDX header"},
      {"\0\0\x08"s, "is too short"},
      {"\0\x01\x08\x01"s, "is not IDX, expected two zero bytes"},
      {"PK\x03\x04"s, "is not IDX"},
      {"\0\0\x0d\x01\0\0\0\0"s, "IDX type 13, expected 8"},
      {"\0\0\x08\0"s, "0 dimensions, expected 1 to 4"},
      {"\0\0\x08\xff"s, "255 dimensions, expected 1 to 4"},
      {idx_header({1, 2}).substr(0, 10), "ends inside its IDX header"},
      {idx_header({0x80000001U}) + "x", "claims more than 2^31"},
      {idx_header({1U << 31, 1U << 31, 4}), "claims more than 2^31"},  // wraps to 0
      {idx_header({1U << 16, 1U << 16, 1U << 16, 1U << 16}), "claims more than 2^31"},
      {small_idx.substr(0, small_idx.size() - 1), "ends after 5 values, expected 6"},
      {small_idx + "x", "has bytes after its values, expected 6"},
      {gzip(small_idx.substr(0, small_idx.size() - 1)), "ends after 5 values"},
      {gzip(small_idx + "x"), "has bytes after its values"},
      {packed.substr(0, 5), "cut off"},
      {packed.substr(0, packed.size() - 12), "cut off"},
      {packed.substr(0, packed.size() - 8), "cut off"},  // the data whole, without its trailer
      {packed.substr(0, packed.size() - 1), "cut off"},
      {flipped(packed, 8), "damaged: incorrect data check"},
      {flipped(packed, 1), "damaged: incorrect length check"},
      {packed + "x", "has bytes after its gzip stream"},
      {packed + packed, "has bytes after its gzip stream"},
      {packed + gzip(""), "has bytes after its gzip stream"},
      {gzip(packed), "is not IDX"}};
  for (const Case& c : cases) {
    const std::string path = folder.file(c.input);
    expect_error<DataError>(path + ": ", [&] { read_idx(path); });
    expect_error<DataError>(c.what, [&] { read_idx(path); });
  }
}

TEST(Idx, StopsABombAtTheSizeOfItsHeader) {
  const Folder folder;
  const std::string bomb = gzip(idx_header({10}) + std::string(10'000'000, '\0'));
  const std::string cut = bomb.substr(0, bomb.size() - 8);  // who inflates all of it finds this
  expect_error<DataError>("has bytes after its values", [&] { read_idx(folder.file(cut)); });
}

TEST(Idx, NeedsNoMemoryForWhatAHeaderOnlyClaims) {
  const Folder folder;
  const std::string path = folder.file(idx_header({1U << 31}) + "x");
  rlim_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t now = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  const Limit memory(RLIMIT_AS, now + (rlim_t{1} << 28));
  expect_error<DataError>("ends after 1 values, expected 2147483648", [&] { read_idx(path); });
}

// ---- safetensors -----------------------------------------------------------------------------

template <class Number>
std::string bytes_of(Number number) {
  std::string bytes(sizeof number, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

std::string tensor_file(const std::string& header, const std::string& data = "") {
  return bytes_of<std::uint64_t>(header.size()) + header + data;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

std::string f32(const std::string& shape, const std::string& offsets) {
  return "{" + entry("w", "F32", shape, offsets) + "}";
}

TEST(Safetensors, ReadsEveryFloatTypeUnalignedAndOutOfOrder) {
  const Folder folder;
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\",\"\\u00fc\":\"\"}," +
      entry("w", "F32", "[2,1]", "[5,13]") + "," + entry("b", "BF16", "[2]", "[1,5]") + "," +
      entry("mask", "BOOL", "[1]", "[0,1]") + "," + entry("d", "F64", "[]", "[13,21]") + "," +
      entry("zero", "F32", "[3,0]", "[5,5]") + "}  ";
  const std::string data = "\x01" + bytes_of<std::uint16_t>(0x3fc0) +
                           bytes_of<std::uint16_t>(0xc000) + bytes_of(0.5F) + bytes_of(-7.0F) +
                           bytes_of(0.1);
  const std::string path = folder.file(tensor_file(header, data));
  const SafetensorsReader reader(path);

  std::string names;
  for (const Tensor& t : reader.tensors()) names += t.name + to_string(t.shape) + " ";
  EXPECT_EQ(names, "b[2] d[] mask[1] w[2, 1] zero[3, 0] ");
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"ü", ""}}));
  EXPECT_EQ(reader.path(), path);
  EXPECT_EQ(reader.find("ww"), nullptr);
  EXPECT_EQ(reader.find(""), nullptr);

  EXPECT_EQ(reader.matrix(*reader.find("w")), matrix({{0.5}, {-7}}));
  EXPECT_EQ(reader.matrix(*reader.find("zero")).shape()[0], 3U);
  Real values[2] = {};
  reader.read(*reader.find("b"), 0, 2, values);
  EXPECT_EQ(values[0], Real(1.5));
  EXPECT_EQ(values[1], Real(-2));
  reader.read(*reader.find("w"), 1, 1, values);
  EXPECT_EQ(values[0], Real(-7));
  reader.read(*reader.find("d"), 0, 1, values);
  EXPECT_EQ(values[0], static_cast<Real>(0.1));

  expect_error<DataError>("tensor 'mask' has dtype BOOL, expected F64",
                          [&] { reader.read(*reader.find("mask"), 0, 1, values); });
  expect_error<DataError>("tensor 'b' has shape [2], expected two dimensions",
                          [&] { reader.matrix(*reader.find("b")); });
  const std::size_t most = std::numeric_limits<std::size_t>::max();
  for (const auto& [first, count] : {std::pair{most, most}, {3, 0}, {1, most}, {most, 2}, {2, 1}}) {
    expect_error<std::invalid_argument>("of shape [2]", [&, f = first, n = count] {
      reader.read(*reader.find("b"), f, n, values);
    });
  }
}

TEST(Safetensors, ReadsIntegers) {
  const Folder folder;
  const std::string header =
      "{" + entry("a", "I64", "[2]", "[0,16]") + "," + entry("b", "I32", "[1,2]", "[16,24]") + "," +
      entry("c", "U8", "[1]", "[24,25]") + "," + entry("d", "BOOL", "[1]", "[25,26]") + "," +
      entry("e", "I16", "[1]", "[26,28]") + "}";
  const std::string data = bytes_of(-(std::int64_t{1} << 40)) + bytes_of(std::int64_t{7}) +
                           bytes_of(std::int32_t{-5}) + bytes_of(std::int32_t{1} << 30) +
                           "\xff\x01"s + "\0\0"s;
  const SafetensorsReader reader(folder.file(tensor_file(header, data)));
  const auto of = [&](const char* name) { return reader.integers(*reader.find(name)); };
  EXPECT_EQ(of("a"), (std::vector<std::int64_t>{-(std::int64_t{1} << 40), 7}));
  EXPECT_EQ(of("b"), (std::vector<std::int64_t>{-5, std::int64_t{1} << 30}));
  EXPECT_EQ(of("c"), (std::vector<std::int64_t>{255}));
  EXPECT_EQ(of("d"), (std::vector<std::int64_t>{1}));
  expect_error<DataError>("tensor 'e' has dtype I16, expected I64", [&] { of("e"); });
}

Real read_one(const Folder& folder, const std::string& dtype, std::uint16_t bits) {
  const std::string header = "{" + entry("x", dtype, "[]", "[0,2]") + "}";
  const SafetensorsReader reader(folder.file(tensor_file(header, bytes_of(bits))));
  Real value;
  reader.read(reader.tensors()[0], 0, 1, &value);
  return value;
}

TEST(Safetensors, ConvertsTheSpecialValuesOfHalfPrecision) {
  const Folder folder;
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<std::uint16_t, double>> halves = {
      {0x0000, 0},        {0x3c00, 1},       {0xc000, -2},          {0x3555, 0x1.554p-2},
      {0x7bff, 65504},    {0x0400, 0x1p-14}, {0x03ff, 0x1.ff8p-15}, {0x0001, 0x1p-24},
      {0x8001, -0x1p-24}, {0x7c00, inf},     {0xfc00, -inf}};
  for (const auto& [bits, value] : halves) {
    EXPECT_EQ(read_one(folder, "F16", bits), static_cast<Real>(value)) << std::hex << bits;
  }
  const std::vector<std::pair<std::uint16_t, double>> brains = {
      {0x3f80, 1},         {0xbfc0, -1.5}, {0x7f7f, 0x1.fep127}, {0x0001, 0x1p-133},
      {0x8001, -0x1p-133}, {0x7f80, inf},  {0xff80, -inf},       {0x0080, 0x1p-126}};
  for (const auto& [bits, value] : brains) {
    EXPECT_EQ(read_one(folder, "BF16", bits), static_cast<Real>(value)) << std::hex << bits;
  }
  EXPECT_TRUE(std::signbit(read_one(folder, "F16", 0x8000)));
  EXPECT_TRUE(std::signbit(read_one(folder, "BF16", 0x8000)));
  for (const std::uint16_t nan : {0x7c01, 0x7e00, 0xffff}) {
    EXPECT_TRUE(std::isnan(read_one(folder, "F16", nan)));
  }
  for (const std::uint16_t nan : {0x7f81, 0x7fc0, 0xffff}) {
    EXPECT_TRUE(std::isnan(read_one(folder, "BF16", nan)));
  }
}

TEST(Safetensors, ConvertsMoreThanOnePart) {
  const Folder folder;
  const std::uint16_t n = 0x7c00;  // every half from 0 up, several times over
  std::string data;
  for (int repeat = 0; repeat < 5; ++repeat) {
    for (std::uint16_t bits = 0; bits < n; ++bits) data += bytes_of(bits);
  }
  const std::string bytes = std::to_string(data.size());
  const std::string header =
      "{" + entry("x", "F16", "[5," + std::to_string(n) + "]", "[0," + bytes + "]") + "}";
  const SafetensorsReader reader(folder.file(tensor_file(header, data)));
  const Matrix all = reader.matrix(reader.tensors()[0]);
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 1; j < n; ++j) ASSERT_LT(all(i, j - 1), all(i, j));
  }
  Real last;
  reader.read(reader.tensors()[0], all.size() - 1, 1, &last);
  EXPECT_EQ(last, 65504);
}

TEST(Safetensors, RefusesEveryMalformedFile) {
  const Folder folder;
  const std::string four(4, 'x'), eight(8, 'x');
  const std::string a = entry("a", "F32", "[1]", "[0,4]"), b = entry("b", "F32", "[1]", "[4,8]");
  const std::string ok = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
  const auto length_only = [](std::uint64_t n) { return bytes_of(n) + "{}"; };
  const std::vector<Case> cases = {
      {"", "has 0 bytes, expected the 8"},
      {"1234567", "has 7 bytes, expected the 8"},
      {length_only(0), "does not start with '{'"},
      {length_only(3), "claims a header of 3 bytes"},
      {length_only(100'000'001), "claims a header of 100000001 bytes"},
      {length_only(~std::uint64_t{0}), "claims a header of 18446744073709551615 bytes"},
      {length_only(~std::uint64_t{0} - 7), "claims a header of"},  // 8 + N wraps to 0
      {tensor_file(" {}"), "does not start with '{'"},
      {tensor_file("[]"), "does not start with '{'"},
      {tensor_file("\xef\xbb\xbf{}"), "does not start with '{'"},
      {tensor_file("{"), "is not valid JSON"},
      {tensor_file("{}x"), "is not valid JSON"},
      {tensor_file("{}{}"), "is not valid JSON"},
      {tensor_file("{}\0x"s), "has a zero byte"},
      {tensor_file("{\"a\":}"), "is not valid JSON"},
      {tensor_file("{\"\xff\":{}}"), "is not valid JSON at byte 3"},
      {tensor_file("{\"\\ud800\":{}}"), "is not valid JSON"},
      {tensor_file("{\"" + std::string(1000, 'x')), "is not valid JSON"},
      {tensor_file("{\"w\":1}"), "has a number at 'w', expected an object"},
      {tensor_file("{\"w\":[]}"), "has an array at 'w', expected an object"},
      {tensor_file("{\"w\":null}"), "has null at 'w', expected an object"},
      {tensor_file("{\"a\\nb\":true}"), "has a boolean at 'a?b', expected an object"},
      {tensor_file("{\"__metadata__\":\"x\"}"), "has a string at '__metadata__'"},
      {tensor_file("{\"__metadata__\":{\"k\":1}}"),
       "has a number at '__metadata__.k', expected a string"},
      {tensor_file("{\"__metadata__\":{\"k\":{}}}"), "has an object at '__metadata__.k'"},
      {tensor_file("{\"__metadata__\":{\"k\":\"\",\"k\":\"\"}}"), "'__metadata__.k' twice"},
      {tensor_file("{\"__metadata__\":{},\"__metadata__\":{}}"), "key '__metadata__' twice"},
      {tensor_file("{" + a + "," + a + "}", four), "has the key 'a' twice"},
      {tensor_file("{\"w\":{\"dtype\":\"F32\"," + ok + "}}", four), "'w.dtype' twice"},
      {tensor_file("{\"w\":{\"x\":1," + ok + "}}", four), "unknown key 'w.x'"},
      {tensor_file("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}"), "'w' lacks one of"},
      {tensor_file("{\"w\":{}}"), "'w' lacks one of"},
      {tensor_file("{\"w\":{\"dtype\":[]}}"), "has an array at 'w.dtype', expected a string"},
      {tensor_file("{\"w\":{\"dtype\":7}}"), "has a number at 'w.dtype', expected a string"},
      {tensor_file("{\"w\":{\"shape\":\"1\"}}"), "has a string at 'w.shape', expected an array"},
      {tensor_file("{\"w\":{\"shape\":1}}"), "has a number at 'w.shape', expected an array"},
      {tensor_file("{" + entry("w", "F33", "[1]", "[0,4]") + "}", four), "unknown dtype 'F33'"},
      {tensor_file("{" + entry("w", "f32", "[1]", "[0,4]") + "}", four), "unknown dtype 'f32'"},
      {tensor_file(f32("[-1]", "[0,4]"), four), "has a negative number at 'w.shape', expected an"},
      {tensor_file(f32("[1.0]", "[0,4]"), four), "has a fraction or too large a number"},
      {tensor_file(f32("[1e0]", "[0,4]"), four), "has a fraction or too large a number"},
      {tensor_file(f32("[100000000000000000000]", "[0,4]"), four), "too large a number"},
      {tensor_file(f32("[[1]]", "[0,4]"), four), "has an array at 'w.shape', expected an unsigned"},
      {tensor_file(f32("[null]", "[0,4]"), four), "has null at 'w.shape'"},
      {tensor_file(f32("[9223372036854775808]", "[0,4]"), four), "more elements than 64 bits"},
      {tensor_file(f32("[4611686018427387904]", "[0,0]")), "more elements than 64 bits"},
      {tensor_file(f32("[4294967296,4294967296]", "[0,0]")), "more elements than 64 bits"},
      {tensor_file(f32("[3,6148914691236517206]", "[0,8]"), eight), "more elements than 64"},  // 2
      {tensor_file("{" + entry("w", "F4", "[3]", "[0,1]") + "}", "x"), "does not fill whole bytes"},
      {tensor_file(f32("[2]", "[0,4]"), four), "'w' takes 4 bytes, expected 8"},
      {tensor_file(f32("[]", "[0,0]")), "'w' takes 0 bytes, expected 4"},
      {tensor_file("{" + entry("w", "F16", "[1]", "[0,4]") + "}", four), "4 bytes, expected 2"},
      {tensor_file(f32("[1]", "[4,0]"), four), "'w' ends before it begins"},
      {tensor_file(f32("[1]", "[0]"), four), "expected two numbers at 'w.data_offsets'"},
      {tensor_file(f32("[1]", "[0,4,4]"), four), "expected two numbers at 'w.data_offsets'"},
      {tensor_file(f32("[1]", "[0,-4]"), four), "has a negative number at 'w.data_offsets'"},
      {tensor_file(f32("[1]", "[4,8]"), eight), "'w' begins at byte 4, expected 0"},
      {tensor_file("{" + a + "," + entry("b", "F32", "[1]", "[0,4]") + "}", four),
       "'b' begins at byte 0, expected 4"},
      {tensor_file("{" + a + "," + entry("b", "F32", "[1]", "[3,7]") + "}", "1234567"),
       "'b' begins at byte 3, expected 4"},
      {tensor_file("{" + a + "," + entry("b", "F32", "[1]", "[5,9]") + "}", "123456789"),
       "'b' begins at byte 5, expected 4"},
      {tensor_file("{" + a + "," + b + "}", "1234567"), "holds 7 bytes of values, expected 8"},
      {tensor_file("{" + a + "," + b + "}", "123456789"), "holds 9 bytes of values, expected 8"},
      {tensor_file("{}", "x"), "holds 1 bytes of values, expected 0"}};
  for (const Case& c : cases) {
    const std::string path = folder.file(c.input);
    expect_error<DataError>(path + ": ", [&] { SafetensorsReader reader(path); });
    expect_error<DataError>(c.what, [&] { SafetensorsReader reader(path); });
  }
  const std::string large = folder.file(length_only(100'000'001));
  fs::resize_file(large, 8 + 100'000'001);
  expect_error<DataError>("claims a header of", [&] { SafetensorsReader reader(large); });
  EXPECT_NO_THROW(SafetensorsReader(folder.file(tensor_file("{" + b + "," + a + "} \n", eight))));
  EXPECT_TRUE(SafetensorsReader(folder.file(tensor_file("{}"))).tensors().empty());
}

TEST(Safetensors, RefusesADeepHeaderAtItsSecondLevel) {
  const Folder folder;
  std::string objects = "{\"a\":", arrays = "{\"a\":{\"shape\":";
  for (int i = 0; i < 200'000; ++i) objects += "{\"dtype\":", arrays += "[";
  expect_error<DataError>("has an object at 'a.dtype'",
                          [&] { SafetensorsReader reader(folder.file(tensor_file(objects))); });
  expect_error<DataError>("has an array at 'a.shape'",
                          [&] { SafetensorsReader reader(folder.file(tensor_file(arrays))); });
}

TEST(Safetensors, ReadsBeyondFourGigabytes) {
  const Folder folder;
  const std::string header = "{" + entry("big", "U8", "[6000000000]", "[0,6000000000]") + "," +
                             entry("w", "F32", "[1500000000]", "[6000000000,12000000000]") + "}";
  const std::string path = folder.file(tensor_file(header));
  const off_t size = static_cast<off_t>(8 + header.size()) + 12'000'000'000;
  if (truncate(path.c_str(), size) != 0) GTEST_SKIP() << "no sparse files here";
  const int file = open(path.c_str(), O_WRONLY);
  const float seven = 7;
  ASSERT_EQ(pwrite(file, &seven, 4, size - 8), 4);
  close(file);
  const SafetensorsReader reader(path);
  Real tail[3] = {1, 1, 1};
  reader.read(*reader.find("w"), 1'499'999'997, 3, tail);
  EXPECT_EQ(tail[0], 0);
  EXPECT_EQ(tail[1], 7);
  EXPECT_EQ(tail[2], 0);
}

TEST(Safetensors, NoticesAFileCutShortAfterItWasOpened) {
  const Folder folder;
  const std::string path = folder.file(tensor_file(f32("[1]", "[0,4]"), "1234"));
  const SafetensorsReader reader(path);
  fs::resize_file(path, fs::file_size(path) - 1);
  Real value;
  expect_error<DataError>("ends at byte", [&] { reader.read(*reader.find("w"), 0, 1, &value); });
}

TEST(Safetensors, ReturnsWhatWasSaved) {
  const Folder folder;
  const std::string path = folder / "model.safetensors";
  const double tiny = std::numeric_limits<Real>::denorm_min();
  const Matrix w = matrix({{1, -0.0, 3}, {tiny, 5, std::numeric_limits<double>::infinity()}});
  const Matrix v = matrix({{7}}), none = zeros({0, 4});
  save_safetensors(path, {{"w", w}, {"a \"quoted\" ü", v}, {"none", none}}, {{"rank", "8"}});
  const SafetensorsReader reader(path);
  ASSERT_EQ(reader.tensors().size(), 3U);
  EXPECT_EQ(reader.matrix(*reader.find("w")), w);
  EXPECT_TRUE(std::signbit(reader.matrix(*reader.find("w"))(0, 1)));
  EXPECT_EQ(reader.matrix(*reader.find("a \"quoted\" ü")), v);
  EXPECT_EQ(shape_of(reader.matrix(*reader.find("none"))), (Shape{0, 4}));
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"rank", "8"}}));
  EXPECT_EQ(reader.find("w")->dtype, sizeof(Real) == 4 ? "F32" : "F64");

  std::uint64_t header = 0;
  std::memcpy(&header, read_text(path).data(), sizeof header);
  EXPECT_EQ(header % 8, 0U);
  EXPECT_EQ(folder.files(), 1U);
  struct stat status = {};
  stat(path.c_str(), &status);
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(status.st_mode & 0777U, 0666U & ~mask);
}

TEST(SafetensorsWriter, TakesPartsInAnyOrderAndShowsTheFileAtCommit) {
  const Folder folder;
  const std::string path = folder.file("old");
  const Real values[] = {1, 2, 3, 4, 5};
  {
    SafetensorsWriter writer(path, {{"b", {5}}, {"a", {}}}, {{"format", "np"}});
    writer.write("b", 3, values + 3, 2);
    writer.write("a", 0, values + 4, 1);
    expect_error<std::logic_error>("2 of 5 elements of tensor 'b'", [&] { writer.commit(); });
    writer.write("b", 0, values, 3);
    EXPECT_EQ(read_text(path), "old");
    writer.commit();
  }
  const SafetensorsReader reader(path);
  Real got[6];
  reader.read(*reader.find("b"), 0, 5, got);
  reader.read(*reader.find("a"), 0, 1, got + 5);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(got[i], values[std::min(i, 4)]);
  EXPECT_EQ(reader.metadata().at("format"), "np");
  EXPECT_EQ(folder.files(), 1U);
}

TEST(SafetensorsWriter, LeavesNothingWithoutCommit) {
  const Folder folder;
  {
    SafetensorsWriter writer(folder / "w", {{"w", {2, 2}}});
    writer.write("w", zeros({2, 2}));
    EXPECT_EQ(folder.files(), 1U);
  }
  EXPECT_EQ(folder.files(), 0U);
}

TEST(SafetensorsWriter, RefusesMistakes) {
  const Folder folder;
  const std::string path = folder / "w";
  const auto make = [&](const SafetensorsWriter::Shapes& shapes, const Metadata& metadata = {}) {
    return std::make_unique<SafetensorsWriter>(path, shapes, metadata);
  };
  const std::size_t huge = std::size_t{1} << 62;
  using Usage = std::invalid_argument;
  expect_error<Usage>("duplicate", [&] { make({{"w", {1}}, {"w", {1}}}); });
  expect_error<Usage>("reserved", [&] { make({{"__metadata__", {1}}}); });
  expect_error<Usage>("too large", [&] { make({{"w", {huge, 2}}}); });
  expect_error<Usage>("not UTF-8", [&] { make({{"\xff", {1}}}); });
  expect_error<Usage>("not UTF-8", [&] { make({}, {{"k", "\xff"}}); });
  expect_error<Usage>("100,000,000", [&] { make({}, {{"k", std::string(100'000'000, 'x')}}); });
  const auto writer = make({{"w", {2, 3}}});
  const Real values[7] = {};
  expect_error<Usage>("no tensor 'v'", [&] { writer->write("v", 0, values, 1); });
  expect_error<Usage>("has no 7 elements from 0", [&] { writer->write("w", 0, values, 7); });
  expect_error<Usage>("has no 1 elements from 6", [&] { writer->write("w", 6, values, 1); });
  expect_error<Usage>("[2, 3], got 3 x 2", [&] { writer->write("w", zeros({3, 2})); });
}

// ---- writing where it cannot be done ---------------------------------------------------------

TEST(Writers, NameThePathAndTheReason) {
  const Folder folder;
  const std::string lost = folder / "no/such/file", fifo = folder / "fifo", full = folder / "full";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink("/dev/full", full);
  expect_error<IoError>(lost + ": cannot create: No such", [&] { write_atomically(lost, "x"); });
  expect_error<IoError>(lost + ": cannot open: No such", [&] { append_whole(lost, "x"); });
  expect_error<IoError>(lost + ": cannot create: No such", [&] { save_safetensors(lost, {}); });
  for (const std::string& path : {folder / "", fifo, full}) {
    expect_error<IoError>("not a regular file", [&] { write_atomically(path, "x"); });
    expect_error<IoError>("not a regular file", [&] { save_safetensors(path, {}); });
  }
  expect_error<IoError>("Is a directory", [&] { append_whole(folder / "", "x"); });
  expect_error<IoError>("No such device", [&] { append_whole(fifo, "x"); });  // nobody reads it
  expect_error<IoError>(full + ": cannot write: No space left on device",
                        [&] { append_whole(full, "x"); });
  EXPECT_EQ(folder.files(), 2U);
}

TEST(Writers, KeepTheOldFileWhenTheDiskIsFull) {
  const Folder folder;
  const std::string old(4000, 'o'), path = folder.file(old);
  {
    const Limit full_disk(RLIMIT_FSIZE, 4096);
    expect_error<IoError>(path + ": cannot write: File too large",
                          [&] { write_atomically(path, std::string(5000, 'n')); });
    expect_error<IoError>(path + ": cannot write: File too large",
                          [&] { append_whole(path, std::string(200, 'n')); });  // 96 of them fit
    expect_error<IoError>(path + ": cannot write: File too large", [&] {
      save_safetensors(path, {{"w", zeros({40, 40})}});
    });
    append_whole(path, std::string(96, 'n'));
  }
  EXPECT_EQ(read_text(path), old + std::string(96, 'n'));
  EXPECT_EQ(folder.files(), 1U);
}

// ---- whole files -----------------------------------------------------------------------------

TEST(Files, AreReplacedAppendedToAndRead) {
  const Folder folder;
  const std::string path = folder / "text", large(1'000'003, 'x');
  append_whole(path, "one\n");
  append_whole(path, "");
  append_whole(path, "two\0\n"s);
  EXPECT_EQ(read_text(path), "one\ntwo\0\n"s);
  write_atomically(path, large);
  EXPECT_EQ(read_text(path), large);
  write_atomically(path, "");
  EXPECT_EQ(read_text(path), "");
  EXPECT_EQ(folder.files(), 1U);
  EXPECT_NE(read_text("/proc/self/stat"), "");  // its size is said to be 0

  const fs::path before = fs::current_path();
  fs::current_path(fs::path(path).parent_path());
  write_atomically("bare", "x");
  fs::current_path(before);
  EXPECT_EQ(read_text(folder / "bare"), "x");
}

TEST(Files, HaveTheFingerprintsOfFips180) {
  const Folder folder;
  EXPECT_EQ(sha256_of_file(folder.file("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_of_file(folder.file("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of_file(folder.file(std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// ---- CSV -------------------------------------------------------------------------------------

using Rows = std::vector<std::vector<std::string>>;

TEST(Csv, QuotesWhereNeeded) {
  EXPECT_EQ(csv_line({"plain", "", " x ", "-1.5e-3"}), "plain,, x ,-1.5e-3\n");
  EXPECT_EQ(csv_line({"", "", ""}), ",,\n");
  EXPECT_EQ(csv_line({"lora:rank=8,alpha=16", "say \"so\"", "a\nb", "c\r"}),
            "\"lora:rank=8,alpha=16\",\"say \"\"so\"\"\",\"a\nb\",\"c\r\"\n");
}

TEST(Csv, ReturnsWhatWasWritten) {
  const Folder folder;
  const Rows rows = {{"a,b", "", "\"\"", "x\r\ny"}, {"", "", "", ""}, {"\n", "\"", ",", "\r"}};
  std::string text = csv_line({"one", "two, too", "", "four"});
  for (const auto& row : rows) text += csv_line(row);
  const CsvTable table = read_csv(folder.file(text));
  EXPECT_EQ(table.rows, rows);
  EXPECT_EQ(table.column("four"), 3U);
  EXPECT_EQ(table.column("two, too"), 1U);
  expect_error<DataError>("no column 'x'; there are one", [&] { table.column("x"); });
  const CsvTable narrow = read_csv(folder.file(csv_line({"h"}) + csv_line({""}) + csv_line({"y"})));
  EXPECT_EQ(narrow.rows, (Rows{{""}, {"y"}}));
}

TEST(Csv, DropsATornLastLineWhereverItWasCut) {
  const Folder folder;
  const std::string whole = "a,b\r\n1,2\n", torn = "\"x\"\"\n,\",y\r\n";
  const Rows one = {{"1", "2"}};
  for (std::size_t size = 0; size < torn.size(); ++size) {
    EXPECT_EQ(read_csv(folder.file(whole + torn.substr(0, size))).rows, one) << size;
  }
  EXPECT_EQ(read_csv(folder.file(whole + torn)).rows, (Rows{{"1", "2"}, {"x\"\n,", "y"}}));
}

TEST(Csv, RefusesWhatIsNoTable) {
  const Folder folder;
  const std::vector<Case> cases = {{"", "has no whole line, expected a header"},
                                   {"a,b", "has no whole line, expected a header"},
                                   {"a,b\n1\n", "line 2 has 1 fields, expected 2"},
                                   {"a,b\n\"\n\",2\n1,2,3\n", "line 4 has 3 fields, expected 2"},
                                   {"a,b\n\n", "line 2 has 1 fields, expected 2"},
                                   {"a,b\n1,x\"y\n", "line 2 has a quote inside an unquoted field"},
                                   {"a,b\n\"x\"y,2\n", "line 2 has text after a closing quote"}};
  for (const Case& c : cases) {
    const std::string path = folder.file(c.input);
    expect_error<DataError>(path + ": " + (c.input.size() < 4 ? "" : "line "),
                            [&] { read_csv(path); });
    expect_error<DataError>(c.what, [&] { read_csv(path); });
  }
}

}  // namespace
}  // namespace gradview
