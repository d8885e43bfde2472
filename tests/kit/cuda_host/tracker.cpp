// What a compiler with -fsanitize=thread calls at every access: each is checked against the cell of its address.
#include <algorithm>

#include "tracker.h"

namespace mer_fast::host {
namespace {

// Shared memory is new for each block: what is written down of an earlier one's does not count.
void forget_earlier_blocks(Cell& cell) {
  if (interval_of(cell.write) < first_cluster_interval) {
    cell.write = 0;
    cell.atomic = 0;
  }
  if (interval_of(cell.read) < first_cluster_interval) {
    cell.read = 0;
    cell.readers = Readers::one;
  }
}

void note_read(Cell& cell, const Thread& me, unsigned code) {
  cell.read = me.stamp;
  cell.read_code = code;
  cell.readers = Readers::one;
}

template <Access kAccess>
void note_write(Cell& cell, const Thread& me, unsigned code) {
  const bool hides_plain = cell.write == me.stamp && !cell.atomic;  // others' atomics have to come after that one too
  cell.atomic = kAccess == Access::atomic && !hides_plain;
  cell.write = me.stamp;
  cell.write_code = code;
  cell.read = 0;
  cell.readers = Readers::one;
}

template <Access kAccess>
void check(Cell& cell, const void* address, unsigned code) {
  Thread& me = *current;
  if (cell.memory == Memory::shared) forget_earlier_blocks(cell);
  if (cell.write != me.stamp) {
    if (kAccess != Access::write && cell.write == 0) found("which nobody has written", address, kAccess, code);
    const bool both_atomic = kAccess == Access::atomic && cell.atomic;
    if (!both_atomic && !is_before(cell.write, me)) found_race(address, kAccess, code, cell, true);
  }
  const bool first = cell.read == me.stamp && cell.readers == Readers::one;
  const bool ordered = first || readers_are_before(cell, me);
  if (kAccess != Access::read) {
    if (!ordered) found_race(address, kAccess, code, cell, false);
    note_write<kAccess>(cell, me, code);
  } else if (ordered) {
    note_read(cell, me, code);
  } else {
    add_reader(cell, me);
  }
}

bool is_passed(unsigned number, unsigned passed, const Block& mine) {
  if (number < passed) return true;
  const Interval& then = interval(number);
  return then.block == mine.serial && then.barriers < mine.barriers;
}

// Of a cell that others read between the same barriers.
bool joins_readers(Cell& cell, const Thread& me) {
  if (cell.readers == Readers::warps) return true;
  if (thread_of(cell.read) / 32 != me.index / 32) {
    cell.readers = Readers::warps;
    return true;
  }
  if (clock_of(cell.read) != clock_of(me.stamp)) return false;
  if (cell.readers == Readers::one) cell.lanes = 1u << thread_of(cell.read) % 32;
  cell.readers = Readers::lanes;
  cell.lanes |= 1u << me.lane();
  return true;
}

// What most accesses are: the thread's own again, or what came before is behind a barrier that all have passed.
template <Access kAccess>
bool is_quick(Cell& cell, const Thread& me, unsigned code) {
  if (cell.bytes != 0xF || cell.split) return false;
  if (kAccess == Access::read && cell.read == me.stamp) return true;
  if (kAccess == Access::write && cell.write == me.stamp && cell.read == 0 && !cell.atomic) return true;
  const Block& mine = *me.block;
  const bool shared = cell.memory == Memory::shared;
  if (shared && cell.rank != mine.rank) return false;
  const unsigned passed = shared ? me.passed : first_interval, valid = shared ? first_cluster_interval : 1;
  const unsigned wrote = interval_of(cell.write), read = interval_of(cell.read);
  if (!is_passed(wrote, passed, mine) && cell.write != me.stamp) return false;
  if (kAccess == Access::read) {
    if (wrote < valid) return false;
    if (cell.readers == Readers::clusters && read >= first_interval) return true;
    if (read == interval_of(me.stamp) && cell.readers <= Readers::warps) return joins_readers(cell, me);
  }
  if (!is_passed(read, passed, mine) || (cell.readers > Readers::warps && read >= passed)) return false;
  if (kAccess == Access::read) {
    note_read(cell, me, code);
  } else {
    note_write<kAccess>(cell, me, code);
  }
  return true;
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
void access_slowly(const unsigned char* at, size_t bytes, unsigned code) {
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

template <Access kAccess>
inline void access(const void* from, size_t bytes, const void* caller) {
  const Thread* me = watched;
  if (me == nullptr) return;
  const unsigned code = short_code(caller);
  auto* at = static_cast<const unsigned char*>(from);
  const size_t place = static_cast<size_t>(at - arena);
  if ((bytes | place) % 4 == 0 && place < kArena) {
    Cell* cell = arena_cells + place / 4;
    Cell* const stop = cell + bytes / 4;
    while (cell < stop && is_quick<kAccess>(*cell, *me, code)) ++cell, at += 4;
    bytes = 4 * (stop - cell);
    if (bytes == 0) return;
  }
  access_slowly<kAccess>(at, bytes, code);
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
