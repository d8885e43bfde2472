// What the scheduler knows of the threads, warps, blocks and the one cluster that run at a time, and what it asks of the
// memory behind them (plain_memory.cpp in the sanitized build, tracker.cpp in the tracked one).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda_host.h"
#include "fiber.h"

namespace mer_fast::host {

using Stamp = uint64_t;  // who, and when between barriers: see tracker.h

struct Block;
struct Warp;

enum class Wait { nothing, block, warp, cluster, over };

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;  // in its block
  dim3 id;
  Wait wait = Wait::nothing;
  Site site = {};         // what it waits at
  Bits exchanged = 0;     // what its last vote or shuffle gave
  bool between = false;   // has arrived at a cluster barrier and not waited yet
  unsigned arrivals = 0;  // at cluster barriers
  unsigned acquired = 0;  // cluster barriers behind it, its own or through others of its block
  bool fenced = false;    // has called __threadfence
  Stamp stamp = 0;
  unsigned passed = 0;    // the tracker's: intervals below this one, of its cluster, are behind a barrier
  int lane() const { return index % 32; }
};

// Lanes that wait for each other at one place.
struct Gathering {
  unsigned mask = 0, arrived = 0;
  Site site = {};
};

struct Warp {
  unsigned exists = 0, left = 0;  // lanes that the block gave it, lanes whose threads have ended
  Gathering gatherings[32];       // under way: the first `open`
  int open = 0;
  Bits values[32];
  int sources[32];
  unsigned seen[32][32];          // the tracker's: up to which of lane b's __syncwarps lane a knows what b did
};

struct Block {
  int rank = 0;        // in the cluster
  dim3 id;
  Thread* threads = nullptr;
  int count = 0, alive = 0;
  std::vector<Warp> warps;
  std::vector<Thread*> ready;  // a ring: who may run, in the order of becoming so
  int first_ready = 0, ready_count = 0;
  int arrived = 0, predicates = 0, result = 0;  // at the block's barrier
  Site site = {};
  unsigned char* dynamic = nullptr;
  size_t dynamic_bytes = 0;
  unsigned char* statics = nullptr;  // the static shared memory while another block's is in its place
  unsigned serial = 0;         // its number in the grid
  // the tracker's
  unsigned barriers = 0;       // behind it
  unsigned intervals[2] = {};  // before and after an arrival at a cluster barrier
  bool touched = false;        // its shared memory, by another block: the last time by a thread with so many arrivals
  unsigned touched_until = 0;
};

struct Cluster {
  std::vector<Block> blocks;
  int threads = 0, arrived = 0, over = 0;
  unsigned completed = 0;  // barriers
  unsigned passed = 0;     // the tracker's: intervals below this one had not arrived at the last barrier under way
  unsigned serial = 0;
};

struct Order {  // of threads where several may run, and of blocks
  enum Kind { forward, backward, random } kind = forward;
  uint64_t seed = 0;
  unsigned below(unsigned bound);  // random
};

struct Extent : dim3 {  // an integer of any type, or a dim3
  Extent(const dim3& all) : dim3(all) {}
  template <typename Integer, typename = std::enable_if_t<std::is_integral_v<Integer>>>
  Extent(Integer x) : dim3(static_cast<unsigned>(x)) {}
};

struct LaunchShape {
  dim3 grid, block;
  size_t shared;     // bytes, dynamic
  unsigned cluster;  // blocks
  template <typename Bytes = size_t, typename Blocks = unsigned>
  LaunchShape(Extent grid, Extent block, Bytes shared = 0, Blocks cluster = 1)
      : grid(grid), block(block), shared(static_cast<size_t>(shared)), cluster(static_cast<unsigned>(cluster)) {}
};

// Runs `body(parameters)` as every thread of the grid. The kernel's name is in `signature`, after "kKernel = ".
using Body = void (*)(const void* parameters);
void run_grid(const char* signature, const LaunchShape& shape, Body body, const void* parameters, size_t bytes);
void set_order(const std::string& word);  // "forward", "backward" or a seed
bool poison_with_ones();                  // what is uninitialised: NaN, or 0 when the order is backward
std::string launches_text();
const std::string& kernel_name();
// One line on stderr, and the program ends at once.
[[noreturn]] void end_program(const std::string& reason);
// "thread 3 of block 1", with y and z where the launch has them.
std::string name_of(const Block& block, int thread);
std::string text_of(const Site& site);

extern Thread* current;  // null outside kernels
extern Thread* watched;  // `current`, or null while the kernel has called the runtime, whose accesses are not the kernel's
extern Cluster cluster;

struct InRuntime {
  InRuntime() { watched = nullptr; }
  ~InRuntime() { watched = current; }
};

// Where the compiler put the static shared memory.
struct Span {
  unsigned char* begin = nullptr;
  size_t bytes = 0;
  bool holds(const void* address) const {
    return static_cast<size_t>(static_cast<const unsigned char*>(address) - begin) < bytes;
  }
};
const Span& static_shared();

// --- memory and its watch ---------------------------------------------------------------------------------------------
// `bytes` that end where the memory ends, `before` bytes behind an aligned address.
void* allocate(const char* name, size_t bytes, size_t before);
void release(void* memory);
void host_writes(void* memory, size_t bytes);
void host_reads(const void* memory, size_t bytes);
unsigned char* allocate_shared(int rank, size_t bytes);
void release_shared(int rank, unsigned char* memory);
void grid_begins(const void* parameters, size_t bytes, int blocks);
void grid_ends();
void cluster_begins();
void block_synchronised(Block& block);
void warp_synchronised(Block& block, Warp& warp, unsigned lanes);
void thread_arrived(Thread& thread);
void thread_waited(Thread& thread);
void thread_ends(Thread& thread);

}  // namespace mer_fast::host
