#include "gradview/core/buffer.hpp"

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gradview {
namespace {

constexpr std::align_val_t kCacheLine{64};
constexpr std::align_val_t kHugePage{std::size_t{2} << 20};
constexpr std::size_t kLarge = std::size_t{1} << 20;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kKept = 0;  // so that use after release is seen
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr std::size_t kKept = 0;
#else
constexpr std::size_t kKept = std::size_t{256} << 20;
#endif
#else
constexpr std::size_t kKept = std::size_t{256} << 20;
#endif

struct Kept {
  std::mutex mutex;
  std::multimap<std::size_t, void*> blocks;  // by capacity
  std::size_t bytes = 0;
};

Kept& kept() {  // never destroyed: matrices with static lifetime are released after it would be
  static Kept& instance = *new Kept;
  return instance;
}

// Arrays that all begin at the same place of a page keep a step over several of them waiting: a load
// looks like an earlier store to the same 4 KiB offset. So each begins some lines further on.
constexpr std::size_t kStagger = 5 * 64;
constexpr std::size_t kStaggers = 12;

std::size_t stagger() {
  static std::atomic<std::size_t> count = 0;
  return count++ % kStaggers * kStagger;
}

// What a block can hold is noted in the cache line in front of it.
constexpr std::size_t kNote = 64;

std::size_t& capacity_of(void* block) {
  return *reinterpret_cast<std::size_t*>(static_cast<std::byte*>(block) - kNote);
}

void delete_block(void* block) {
  auto address = reinterpret_cast<std::uintptr_t>(block);
  address &= ~(static_cast<std::uintptr_t>(kHugePage) - 1);  // where it was before the stagger
  ::operator delete(reinterpret_cast<void*>(address), kHugePage);
}

void* new_block(std::size_t bytes) {
  const std::size_t offset = kNote + stagger(), capacity = bytes;
  bytes += offset;
  void* block = ::operator new(bytes, kHugePage);
#ifdef __linux__
  const std::size_t whole_pages = bytes & ~(static_cast<std::size_t>(kHugePage) - 1);
  if (whole_pages > 0) madvise(block, whole_pages, MADV_HUGEPAGE);  // advice: may fail
#endif
  block = static_cast<std::byte*>(block) + offset;
  capacity_of(block) = capacity;
  return block;
}

// A container that swaps its memory with another's knows nothing of whose it was; the address does.
struct Lent {
  std::mutex mutex;
  std::unordered_map<void*, std::size_t> times;
  std::atomic<std::size_t> count = 0;
};

Lent& lent() {
  static Lent& instance = *new Lent;
  return instance;
}

bool give_back(void* buffer) noexcept {
  Lent& all = lent();
  if (all.count.load(std::memory_order_relaxed) == 0) return false;
  const std::lock_guard lock(all.mutex);
  const auto found = all.times.find(buffer);
  if (found == all.times.end()) return false;
  if (--found->second == 0) all.times.erase(found);
  --all.count;
  return true;
}

}  // namespace

void* lend_buffer(void* buffer) {
  Lent& all = lent();
  const std::lock_guard lock(all.mutex);
  ++all.times[buffer];
  ++all.count;
  return buffer;
}

void* allocate_buffer(std::size_t bytes) {
  if (bytes < kLarge) return ::operator new(bytes, kCacheLine);
  Kept& all = kept();
  {
    const std::lock_guard lock(all.mutex);
    // The smallest that is large enough, unless a third of it would be left over: batches of texts
    // differ in size, and blocks of every size there was are no use.
    const auto found = all.blocks.lower_bound(bytes);
    if (found != all.blocks.end() && found->first <= bytes + bytes / 2) {
      void* block = found->second;
      all.bytes -= found->first;
      all.blocks.erase(found);
      return block;
    }
  }
  return new_block(bytes);
}

void release_buffer(void* buffer, std::size_t bytes) noexcept {
  if (give_back(buffer)) return;
  if (bytes < kLarge) return ::operator delete(buffer, kCacheLine);
  try {
    Kept& all = kept();
    const std::size_t capacity = capacity_of(buffer);
    const std::lock_guard lock(all.mutex);
    if (all.bytes + capacity <= kKept) {
      all.blocks.emplace(capacity, buffer);
      all.bytes += capacity;
      return;
    }
  } catch (...) {  // no memory for the note: give the block back
  }
  delete_block(buffer);
}

}  // namespace gradview
