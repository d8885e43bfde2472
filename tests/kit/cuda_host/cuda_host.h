// Stands in for CUDA: the same .cuh compiles with a host compiler, every thread of a block being a fiber that runs until
// it has to wait for others. Include it first. What waits, votes or shuffles tells the runtime its source line, which is
// how the runtime knows that threads stand at the same place, and what an error names.
#pragma once

#include <cstddef>
#include <type_traits>

#include "cuda_math.h"

#define __global__ __attribute__((noinline))  // compiled once, not into each launch as well
#define __device__
#define __host__
#define __constant__ static
// One copy that the runtime saves and restores when it goes from block to block, and fills with NaN for a new one.
#define __shared__ thread_local
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace mer_fast {
namespace host {

struct Site {  // where in the source a thread waits
  const char* what;
  const char* file;
  int line;
};
using Bits = unsigned long long;

int block_barrier(int predicate, Site site);  // returns how many threads came with a true predicate
void warp_barrier(unsigned mask, Site site);
unsigned warp_vote(unsigned mask, bool predicate, Site site);
Bits warp_exchange(unsigned mask, Bits value, int source_lane, Site site);
int lane_of_thread();
void cluster_arrive(Site site);
void cluster_wait(Site site);
unsigned cluster_rank();
unsigned cluster_blocks();
void* cluster_map(void* mine, unsigned rank);
void* dynamic_shared();
void thread_fence();
void atomic_access(const void* address, size_t bytes, const void* code);
[[noreturn]] void broken(Site site, const char* reason);  // a rule of the built-in that this thread does not keep

}  // namespace host

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(host::dynamic_shared());
}
inline unsigned cluster_rank() { return host::cluster_rank(); }
inline unsigned cluster_blocks() { return host::cluster_blocks(); }
template <typename T>
T* cluster_map(T* mine, unsigned rank) {
  return static_cast<T*>(host::cluster_map(const_cast<std::remove_const_t<T>*>(mine), rank));
}

}  // namespace mer_fast

// A built-in's last two parameters are filled in by the compiler: the line that calls it.
#define MER_FAST_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace mer_fast {
inline void cluster_arrive(MER_FAST_SITE) { host::cluster_arrive({"cluster_arrive", file, line}); }
inline void cluster_wait(MER_FAST_SITE) { host::cluster_wait({"cluster_wait", file, line}); }
inline void cluster_sync(MER_FAST_SITE) {
  host::cluster_arrive({"cluster_sync", file, line});
  host::cluster_wait({"cluster_sync", file, line});
}
}  // namespace mer_fast

inline void __syncthreads(MER_FAST_SITE) { mer_fast::host::block_barrier(0, {"__syncthreads", file, line}); }
inline int __syncthreads_count(int predicate, MER_FAST_SITE) {
  return mer_fast::host::block_barrier(predicate, {"__syncthreads_count", file, line});
}
inline int __syncthreads_or(int predicate, MER_FAST_SITE) {
  return mer_fast::host::block_barrier(predicate, {"__syncthreads_or", file, line}) > 0;
}
inline int __syncthreads_and(int predicate, MER_FAST_SITE) {
  return mer_fast::host::block_barrier(!predicate, {"__syncthreads_and", file, line}) == 0;
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, MER_FAST_SITE) {
  mer_fast::host::warp_barrier(mask, {"__syncwarp", file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MER_FAST_SITE) {
  return mer_fast::host::warp_vote(mask, predicate, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int predicate, MER_FAST_SITE) {
  return mer_fast::host::warp_vote(mask, predicate, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MER_FAST_SITE) {
  return mer_fast::host::warp_vote(mask, !predicate, {"__all_sync", file, line}) == 0;
}

#include "cuda_shuffle.h"
// after the runtime's functions
#include "cuda_atomic.h"
