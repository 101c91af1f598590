#include "gradview/core/bf16.hpp"

#include <bit>
#include <stdexcept>

#if defined(GRADVIEW_ONEDNN) && !defined(GRADVIEW_DOUBLE)
#define GRADVIEW_BF16
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "gradview/core/parallel.hpp"
#endif

namespace gradview {

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const std::uint32_t quiet = bits >> 16 | 0x40;  // a NaN whose payload is in the lower half only
  return static_cast<std::uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

float from_bf16(std::uint16_t x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}

#ifndef GRADVIEW_BF16

bool bf16_runs_here() { return false; }

std::string bf16_description() {
#ifdef GRADVIEW_DOUBLE
  return "not in the double build";
#else
  return "this build is without oneDNN";
#endif
}

namespace {

Bf16Matrix rounded(const Matrix&) { return {}; }
void multiply(const Bf16Matrix&, const Bf16Matrix&, bool, Matrix&) {}

}  // namespace

#else

namespace {

using dnnl::memory;

// While it lives, oneDNN works on the calling thread alone: the pieces are ours. The setting belongs
// to the thread, which may be another library's too, and is put back.
class OneThread {
 public:
  OneThread() : before_(get() ? get()() : 0) {
    if (set()) set()(1);
  }
  ~OneThread() {
    if (set() && before_ > 0) set()(before_);
  }
  OneThread(const OneThread&) = delete;

 private:
  using Get = int (*)();
  using Set = void (*)(int);
  static Get get() {  // of the OpenMP that oneDNN brings along, if it does
    static const auto found = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    return found;
  }
  static Set set() {
    static const auto found = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
    return found;
  }
  int before_;
};

dnnl::engine& engine() {  // never destroyed: threads may outlive statics
  static dnnl::engine& instance = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return instance;
}

struct Layout {
  memory::dims shape, strides;
  auto operator<=>(const Layout&) const = default;
  memory::desc desc(memory::data_type type) const { return {shape, type, strides}; }
};

// c = a b for one shape; made once, used by every thread.
class Product {
 public:
  Product(const Layout& a, const Layout& b, const Layout& c)
      : description_(describe(a, b, c)), primitive_(description_) {}

  void operator()(const std::uint16_t* a, const std::uint16_t* b, Real* c) const {
    thread_local std::vector<std::byte> scratch;
    scratch.resize(std::max(scratch.size(), description_.scratchpad_desc().get_size()));
    const auto operand = [&](const memory::desc& desc, const void* data) {
      return memory(desc, engine(), const_cast<void*>(data));
    };
    dnnl::stream stream(engine());
    primitive_.execute(
        stream, {{DNNL_ARG_SRC, operand(description_.src_desc(), a)},
                 {DNNL_ARG_WEIGHTS, operand(description_.weights_desc(), b)},
                 {DNNL_ARG_DST, operand(description_.dst_desc(), c)},
                 {DNNL_ARG_SCRATCHPAD, operand(description_.scratchpad_desc(), scratch.data())}});
    stream.wait();
  }

 private:
  static dnnl::matmul::primitive_desc describe(const Layout& a, const Layout& b, const Layout& c) {
    const auto x = a.desc(memory::data_type::bf16);
    const auto w = b.desc(memory::data_type::bf16);
    const auto y = c.desc(memory::data_type::f32);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    return {engine(), x, w, y, attributes};
#else
    return {dnnl::matmul::desc(x, w, y), attributes, engine()};
#endif
  }

  dnnl::matmul::primitive_desc description_;
  dnnl::matmul primitive_;
};

const Product& made_product(const Layout& a, const Layout& b, const Layout& c) {
  using Slot = std::unique_ptr<const Product>;
  using Made = std::map<std::array<Layout, 3>, Slot>;
  static std::mutex mutex;
  static Made& made = *new Made;  // never destroyed, as the engine
  const std::lock_guard lock(mutex);
  Slot& slot = made[{a, b, c}];
  if (!slot) slot = std::make_unique<const Product>(a, b, c);
  return *slot;
}

constexpr std::size_t kConverted = std::size_t{1} << 15;  // numbers in a block

Bf16Matrix rounded(const Matrix& a) {
  Bf16Matrix out = Bf16Matrix::from_shape({a.shape()[0], a.shape()[1]});
  const float* from = a.data();
  std::uint16_t* to = out.data();
  parallel_blocks(a.size(), kConverted, [=](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) to[i] = to_bf16(from[i]);
  });
  return out;
}

// Blocks of rows of c, which is where a piece is read and written in one stretch; of its columns
// where it is flat. They depend on the shape alone, so that the bits are those of one thread.
constexpr std::size_t kPiece = 256;

void multiply(const Bf16Matrix& a, const Bf16Matrix& b, bool transposed, Matrix& c) {
  const std::size_t m = c.shape()[0];
  const std::size_t n = c.shape()[1];
  const auto k = static_cast<memory::dim>(a.shape()[1]);
  const auto ldc = static_cast<memory::dim>(n);
  const memory::dims b_strides = transposed ? memory::dims{1, k} : memory::dims{ldc, 1};
  const auto piece = [&](std::size_t row, std::size_t col, std::size_t row_count,
                         std::size_t col_count) {
    const OneThread scope;
    const auto rows = static_cast<memory::dim>(row_count);
    const auto cols = static_cast<memory::dim>(col_count);
    made_product({{rows, k}, {k, 1}}, {{k, cols}, b_strides}, {{rows, cols}, {ldc, 1}})(
        a.data() + row * a.shape()[1], b.data() + (transposed ? col * b.shape()[1] : col),
        c.data() + row * n + col);
  };
  const bool by_rows = m >= 2 * kPiece || m >= n;
  parallel_blocks(by_rows ? m : n, kPiece, [&](std::size_t begin, std::size_t end) {
    by_rows ? piece(begin, 0, end - begin, n) : piece(0, begin, m, end - begin);
  });
}

}  // namespace

bool bf16_runs_here() {
  constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kNeeded) == kNeeded;
}

std::string bf16_description() {
  const dnnl_version_t& v = *dnnl::version();
  const std::string library = "oneDNN " + std::to_string(v.major) + "." + std::to_string(v.minor) +
                              "." + std::to_string(v.patch);
  if (!bf16_runs_here()) return library + " finds no bfloat16 instructions on this CPU";
  constexpr auto kAmx = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  const bool amx = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kAmx) == kAmx;
  return library + (amx ? ", AMX" : ", AVX-512 BF16");
}

#endif

namespace {

Matrix product(const char* who, const Operand& a, const Operand& b, bool transposed) {
  const Shape of_a = shape_of(a.real()), of_b = shape_of(b.real());
  const Shape right = transposed ? Shape{of_b.cols, of_b.rows} : of_b;
  require_shape(who, "b", right, {of_a.cols, right.cols});
  if (right.size() == 0 || of_a.rows == 0) return zeros({of_a.rows, right.cols});
  Matrix c = uninitialized({of_a.rows, right.cols});
  multiply(a.rounded(), b.rounded(), transposed, c);
  return c;
}

bool in_bf16(const char* who, const Operand& a, const Operand& b) {
  if (a.compute() != b.compute()) {
    throw std::invalid_argument(std::string(who) + ": one operand is rounded, the other is not");
  }
  return a.compute() == Compute::bf16;
}

}  // namespace

Operand::Operand(const Matrix& a, Compute in) : real_(&a), rounded_(), compute_(in) {
  if (in == Compute::real) return;
  if (!bf16_runs_here()) throw std::runtime_error("Operand: no bf16: " + bf16_description());
  rounded_ = gradview::rounded(a);
}

Matrix matmul(const Operand& a, const Operand& b) {
  return in_bf16("matmul", a, b) ? product("matmul", a, b, false) : matmul(a.real(), b.real());
}

Matrix matmul_nt(const Operand& a, const Operand& b) {
  return in_bf16("matmul_nt", a, b) ? product("matmul_nt", a, b, true)
                                    : matmul_nt(a.real(), b.real());
}

void add_matmul(Matrix& c, double s, const Operand& a, const Operand& b) {
  in_bf16("add_matmul", a, b) ? axpy(c, s, product("add_matmul", a, b, false))
                              : add_matmul(c, s, a.real(), b.real());
}

void add_matmul_nt(Matrix& c, double s, const Operand& a, const Operand& b) {
  in_bf16("add_matmul_nt", a, b) ? axpy(c, s, product("add_matmul_nt", a, b, true))
                                 : add_matmul_nt(c, s, a.real(), b.real());
}

}  // namespace gradview
