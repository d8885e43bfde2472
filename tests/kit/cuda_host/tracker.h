// The tracked build's record of accesses. Each 4 bytes of a buffer or of shared memory have a cell with the last write and
// the reads since; an access is checked against them by what barriers have put in order.
#pragma once

#include "runtime.h"

extern "C" unsigned char __executable_start[], end[];  // the program, from the linker

namespace mer_fast::host {

// A stamp says who touched and when: an interval (a block between two barriers), the thread in its block, and how many
// __syncwarps that thread had behind it. 0 is never, kByHost before every launch.
inline unsigned interval_of(Stamp stamp) { return static_cast<unsigned>(stamp >> 32); }
inline int thread_of(Stamp stamp) { return static_cast<int>(stamp >> 22 & 1023); }
inline unsigned clock_of(Stamp stamp) { return static_cast<unsigned>(stamp) & 0x3FFFFFu; }
inline Stamp stamp_of(unsigned interval, int thread, unsigned clock) {
  return static_cast<Stamp>(interval) << 32 | static_cast<Stamp>(thread) << 22 | (clock & 0x3FFFFFu);
}

constexpr Stamp kByHost = Stamp{1} << 32;

struct Interval {
  unsigned block, cluster;  // numbers in their launch
  unsigned barriers;        // of the block, before it
  unsigned arrivals;        // at cluster barriers, of the threads that are in it
};

enum class Memory : uint8_t { nothing, global, shared };
// Who has read since the last write: one thread, lanes of one warp, warps of a block, blocks of a cluster, any blocks.
enum class Readers : uint8_t { one, lanes, warps, blocks, clusters };

struct Cell {
  Stamp write = 0;  // in a split cell, the place of its four cells of a byte
  Stamp read = 0;   // of lanes the one with the lowest clock, of blocks one that arrived most often at cluster barriers
  unsigned lanes = 0;
  unsigned write_code = 0, read_code = 0;  // where in the program
  Memory memory = Memory::nothing;
  uint8_t rank = 0;   // whose shared memory
  uint8_t bytes = 0;  // which of the 4 belong to the buffer
  Readers readers : 3;
  uint8_t atomic : 1, split : 1, unused : 3;
  Cell() : readers(Readers::one), atomic(0), split(0), unused(0) {}
};
static_assert(sizeof(Cell) == 32, "a cell is half a line of the cache");

enum class Access { read, write, atomic };

// --- order.cpp: what barriers have put in order -----------------------------------------------------------------------
extern unsigned first_interval;          // of this launch
extern unsigned first_cluster_interval;  // of the cluster that runs
extern std::vector<Interval> intervals;
inline const Interval& interval(unsigned number) { return intervals[number]; }
void begin_order(int blocks);
void begin_cluster_order();
bool is_before(Stamp stamp, const Thread& me);
bool readers_are_before(const Cell& cell, const Thread& me);
void add_reader(Cell& cell, const Thread& me);
void order_by_atomic(const void* address, Thread& me);

// --- shadow.cpp: memory that may be touched, and its cells ------------------------------------------------------------
constexpr size_t kArena = size_t{1} << 28;
extern unsigned char* arena;  // all buffers and dynamic shared memory
extern Cell* arena_cells;
Cell* static_cell(const void* address);  // null outside static shared memory
Cell* bytes_of(Cell& cell);              // of a split cell
Cell* split(Cell& cell);
bool is_readable(const void* address);  // constants, parameters, built-in variables
std::string memory_text(const void* address);

// --- statics.cpp ------------------------------------------------------------------------------------------------------
struct Variable {  // in static shared memory
  std::string name;
  size_t offset, bytes;
};
const std::vector<Variable>& static_variables();

// --- findings.cpp -----------------------------------------------------------------------------------------------------
inline unsigned short_code(const void* code) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(code) - __executable_start);
}
void found_race(const void* address, Access access, unsigned code, const Cell& cell, bool with_write);
void found(const char* what, const void* address, Access access, unsigned code);
[[noreturn]] void found_fatal(const char* what, const void* address, Access access, unsigned code);
void end_if_found();

}  // namespace mer_fast::host
