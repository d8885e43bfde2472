// What a compiler with -fsanitize=thread calls at every access: each is checked against the cell of its address.
#include <algorithm>

#include "tracker.h"

namespace mer_fast::host {
namespace {

// Shared memory is new for each block: what is written down of an earlier one's does not count.
void forget_earlier_blocks(Cell& cell) {
  if (interval_of(cell.write) < first_cluster_interval) {
    cell.write = 0;
    cell.written = cell.atomic = 0;
  }
  if (interval_of(cell.read) < first_cluster_interval) {
    cell.read = 0;
    cell.readers = Readers::one;
  }
}

template <Access kAccess>
void check(Cell& cell, const void* address, unsigned code) {
  Thread& me = *current;
  if (cell.memory == Memory::shared) forget_earlier_blocks(cell);
  if (cell.write != me.stamp) {
    if (kAccess != Access::write && !cell.written) found("which nobody has written", address, kAccess, code);
    const bool both_atomic = kAccess == Access::atomic && cell.atomic;
    if (!both_atomic && !is_before(cell.write, me)) found_race(address, kAccess, code, cell, true);
  }
  if (kAccess == Access::read) {
    if (cell.read == me.stamp && cell.readers == Readers::one) return;
    if (readers_are_before(cell, me)) {
      cell.readers = Readers::one;
      cell.read = me.stamp;
      cell.read_code = code;
    } else {
      add_reader(cell, me);
    }
    return;
  }
  if (cell.read != me.stamp || cell.readers != Readers::one) {
    if (!readers_are_before(cell, me)) found_race(address, kAccess, code, cell, false);
  }
  cell.write = me.stamp;
  cell.write_code = code;
  cell.read = 0;
  cell.readers = Readers::one;
  cell.written = 1;
  cell.atomic = kAccess == Access::atomic;
}

// A block's shared memory is there for others from its first cluster barrier to its end.
template <Access kAccess>
void check_remote(const Cell& cell, const void* address, unsigned code) {
  Thread& me = *current;
  Block& owner = cluster.blocks[cell.rank];
  if (me.acquired == 0) found("before a first cluster barrier: that block may not have started", address, kAccess, code);
  if (owner.alive < owner.count) found_fatal("and threads of that block have left the kernel", address, kAccess, code);
  if (!owner.touched || owner.touched_until < me.arrivals) {
    owner.touched = true;
    owner.touched_until = me.arrivals;
  }
}

template <Access kAccess>
void touch(Cell& cell, const unsigned char* address, unsigned mask, unsigned code) {
  if ((mask & ~cell.bytes) != 0) found_fatal("outside of its bounds", address, kAccess, code);
  if (cell.memory == Memory::shared && cell.rank != current->block->rank) check_remote<kAccess>(cell, address, code);
  if (mask == cell.bytes && !cell.split) return check<kAccess>(cell, address, code);
  Cell* bytes = cell.split ? bytes_of(cell) : split(cell);
  for (int k = 0; k < 4; ++k) {
    if (mask >> k & 1u) check<kAccess>(bytes[k], address, code);
  }
}

template <Access kAccess>
void touch_elsewhere(const unsigned char* address, unsigned mask, unsigned code) {
  const Fiber& fiber = current->fiber;
  if (static_cast<size_t>(address - reinterpret_cast<unsigned char*>(fiber.low)) < fiber.bytes) return;  // local
  if (Cell* cell = static_cell(address)) return touch<kAccess>(*cell, address, mask, code);
  if (kAccess != Access::read || !is_readable(address)) found_fatal("which is memory of no buffer", address, kAccess, code);
}

template <Access kAccess>
void access(const void* from, size_t bytes, const void* caller) {
  if (current == nullptr || in_runtime) return;
  const unsigned code = short_code(caller);
  auto* at = static_cast<const unsigned char*>(from);
  for (auto* stop = at + bytes; at < stop;) {
    const size_t inside = reinterpret_cast<uintptr_t>(at) % 4, now = std::min<size_t>(4 - inside, stop - at);
    const unsigned mask = ((1u << now) - 1u) << inside;
    const size_t place = static_cast<size_t>(at - arena);
    if (place < kArena) {
      touch<kAccess>(arena_cells[place / 4], at, mask, code);
    } else {
      touch_elsewhere<kAccess>(at, mask, code);
    }
    at += now;
  }
}

}  // namespace

void thread_ends(Thread& thread) {
  const Block& block = *thread.block;
  if (block.touched && thread.acquired <= block.touched_until) {
    const Site end{"its end", kernel_name().c_str(), 0};
    broken(end, "another block of the cluster touches this block's shared memory, with no cluster barrier after that");
  }
}

void atomic_access(const void* address, size_t bytes, const void* code) {
  access<Access::atomic>(address, bytes, code);
  const InRuntime inside;
  order_by_atomic(address, *current);
}

}  // namespace mer_fast::host

// --- called by instrumented code --------------------------------------------------------------------------------------
using mer_fast::host::Access;

#define MER_FAST_TRACK(bytes)                                                                       \
  void __tsan_read##bytes(const void* address) {                                                    \
    mer_fast::host::access<Access::read>(address, bytes, __builtin_return_address(0));              \
  }                                                                                                 \
  void __tsan_write##bytes(const void* address) {                                                   \
    mer_fast::host::access<Access::write>(address, bytes, __builtin_return_address(0));             \
  }                                                                                                 \
  void __tsan_unaligned_read##bytes(const void* address) {                                          \
    mer_fast::host::access<Access::read>(address, bytes, __builtin_return_address(0));              \
  }                                                                                                 \
  void __tsan_unaligned_write##bytes(const void* address) {                                         \
    mer_fast::host::access<Access::write>(address, bytes, __builtin_return_address(0));             \
  }

extern "C" {
MER_FAST_TRACK(1)
MER_FAST_TRACK(2)
MER_FAST_TRACK(4)
MER_FAST_TRACK(8)
MER_FAST_TRACK(16)
void __tsan_read_range(const void* address, size_t bytes) {
  mer_fast::host::access<Access::read>(address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t bytes) {
  mer_fast::host::access<Access::write>(address, bytes, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(const void*, const void*) {}
void __tsan_vptr_read(const void*) {}
}
