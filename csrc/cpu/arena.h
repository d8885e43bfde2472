// Memory that a thread keeps from call to call, aligned to cache lines: fresh memory costs a page fault every 4 KB, and
// vectors that straddle lines cost two loads. Much of it is asked for in huge pages, of which a processor keeps more in sight.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mer_fast {

class Arena {
 public:
  // Room for arrays of these many elements; what was there before is gone.
  template <typename Real>
  void reserve(std::initializer_list<int64_t> arrays) {
    int64_t bytes = 0;
    for (const int64_t elements : arrays) bytes += rounded(elements * static_cast<int64_t>(sizeof(Real)));
    if (bytes > size_) {
      memory_.reset();
      const int64_t unit = bytes >= kHugePage ? kHugePage : kLine;
      bytes = (bytes + unit - 1) / unit * unit;
      memory_.reset(static_cast<char*>(std::aligned_alloc(static_cast<size_t>(unit), static_cast<size_t>(bytes))));
      if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
      if (unit == kHugePage) madvise(memory_.get(), static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish: it may fail
#endif
      size_ = bytes;
    }
    used_ = 0;
  }

  // Gives back what is more than a thread should keep.
  void trim() {
    constexpr int64_t kMost = 32 << 20;
    if (size_ > kMost) memory_.reset(), size_ = 0;
  }

  // The next of the arrays reserved, not initialised.
  template <typename Real>
  Real* take(int64_t elements) {
    Real* array = reinterpret_cast<Real*>(memory_.get() + used_);
    used_ += rounded(elements * static_cast<int64_t>(sizeof(Real)));
    return array;
  }

 private:
  static constexpr int64_t kLine = 64, kHugePage = 2 << 20;
  static int64_t rounded(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t size_ = 0, used_ = 0;
};

// Two for each thread: what it prepares for all, and what it works with itself.
inline Arena& shared_arena() {
  thread_local Arena arena;
  return arena;
}

inline Arena& worker_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace mer_fast
