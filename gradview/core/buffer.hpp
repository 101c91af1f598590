// The memory of a Matrix: aligned to cache lines; large blocks on huge pages and kept for the next
// matrix of about that size, so that a step does not pay for the pages of its temporaries again.
#pragma once

#include <cstddef>
#include <utility>

namespace gradview {

// Throws std::bad_alloc. What is at least 1 MiB comes on huge pages; when it is released it is
// kept while all that is kept stays below 256 MiB, else it goes back to the system.
void* allocate_buffer(std::size_t bytes);
void release_buffer(void* buffer, std::size_t bytes) noexcept;

// Memory of somebody else's: releasing it as often as it was lent leaves it as it is.
void* lend_buffer(void* buffer);

template <class T>
class BufferAllocator {
 public:
  using value_type = T;
  BufferAllocator() = default;
  explicit BufferAllocator(T* lent) : lent_(lent) {}  // the first allocation is this
  template <class U>
  BufferAllocator(const BufferAllocator<U>&) {}
  T* allocate(std::size_t count) {
    if (lent_) return static_cast<T*>(lend_buffer(std::exchange(lent_, nullptr)));
    return static_cast<T*>(allocate_buffer(count * sizeof(T)));
  }
  void deallocate(T* buffer, std::size_t count) noexcept {
    release_buffer(buffer, count * sizeof(T));
  }
  template <class U>
  bool operator==(const BufferAllocator<U>&) const {
    return true;
  }

 private:
  T* lent_ = nullptr;
};

}  // namespace gradview
