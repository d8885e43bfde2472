// Kernels with one planted mistake each, and with kMended the same kernels without it: what the stand-in has to find.
#include "driver.h"
// after the stand-in
#include "block.cuh"

using namespace mer_fast;

namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xFFFFFFFFu;

int no_buffer[kThreads] = {1};

struct Arrays {
  int* out;              // (blocks, kThreads)
  int* one;              // kThreads
  unsigned char* bytes;  // kThreads
  unsigned* finished;    // a counter
  int* unknown;          // of no buffer
};

__device__ int here() { return blockIdx.x * kThreads + threadIdx.x; }
template <typename T>
__device__ T* of_next_block(T* mine) {
  return cluster_map(mine, (cluster_rank() + 1) % cluster_blocks());
}

// --- races in a block -------------------------------------------------------------------------------------------------
template <bool kMended>
__device__ void syncthreads(Arrays arrays) {
  __shared__ int shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = t;
  if (kMended) __syncthreads();
  arrays.out[here()] = shared[kThreads - 1 - t];
}

// The second barrier of a loop, after which the values that were read may be written again.
template <bool kMended>
__device__ void syncthreads_after_reading(Arrays arrays) {
  int* shared = dynamic_shared<int>();
  const int t = threadIdx.x;
  int sum = 0;
  for (int k = 0; k < 3; ++k) {
    shared[t] = t + k;
    __syncthreads();
    sum += shared[(t + 32) % kThreads];
    if (kMended) __syncthreads();
  }
  arrays.out[here()] = sum;
}

template <bool kMended>
__device__ void syncwarp(Arrays arrays) {
  __shared__ int shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = t;
  if (kMended) __syncwarp();
  arrays.out[here()] = shared[t ^ 1];
}

// A shuffle makes lanes meet, but does not order what they do to memory.
template <bool kMended>
__device__ void shuffle_as_barrier(Arrays arrays) {
  __shared__ int shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = t;
  const int other = __shfl_xor_sync(kAll, t, 1);
  if (kMended) __syncwarp();
  arrays.out[here()] = other + shared[t ^ 1];
}

template <bool kMended>
__device__ void part_of_a_warp(Arrays arrays) {
  __shared__ int shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = t;
  __syncwarp(t % 32 < 16 ? 0x0000FFFFu : 0xFFFF0000u);
  arrays.out[here()] = shared[t ^ (kMended ? 8 : 16)];  // 16: a lane of the other half
}

template <bool kMended>
__device__ void reading_an_atomic(Arrays arrays) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, 1);
  if (kMended) __syncthreads();
  arrays.out[here()] = sum;
}

template <bool kMended>
__device__ void initialising_an_atomic(Arrays arrays) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  if (kMended) __syncthreads();
  atomicAdd(&sum, 1);
  __syncthreads();
  arrays.out[here()] = sum;
}

template <bool kMended>
__device__ void bytes(Arrays arrays) {  // neighbours in one word are no race, two threads on one byte are
  if (blockIdx.x == 0) arrays.bytes[kMended ? threadIdx.x : threadIdx.x / 2] = 1;
}

// --- races between blocks ---------------------------------------------------------------------------------------------
template <bool kMended>
__device__ void blocks(Arrays arrays) {  // each block's last element is the next one's first
  arrays.out[blockIdx.x * (kMended ? kThreads : kThreads - 1) + threadIdx.x] = 1;
}

template <bool kMended>
__device__ void blocks_reading(Arrays arrays) {
  const int t = here();
  arrays.out[t] = t;
  arrays.out[t] += arrays.out[kMended ? t : t ^ kThreads];
}

// The block that finishes last sums up: what it reads has to be behind a fence of those that wrote it.
template <bool kMended>
__device__ void last_block(Arrays arrays) {
  arrays.out[here()] = 1;
  if (kMended) __threadfence();
  __syncthreads();
  __shared__ bool last;
  if (threadIdx.x == 0) last = atomicAdd(arrays.finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (last && threadIdx.x == 0) {
    for (unsigned k = 1; k < gridDim.x; ++k) arrays.out[0] += arrays.out[k * kThreads];
  }
}

// --- clusters ---------------------------------------------------------------------------------------------------------
template <bool kMended>
__device__ void cluster(Arrays arrays) {
  int* shared = dynamic_shared<int>();
  cluster_sync();
  of_next_block(shared)[threadIdx.x] = 1;
  if (kMended) cluster_sync();
  if (!kMended) __syncthreads();
  arrays.out[here()] = shared[threadIdx.x];
  cluster_sync();
}

template <bool kMended>
__device__ void cluster_start(Arrays arrays) {
  __shared__ int shared[kThreads];
  if (kMended) cluster_sync();
  of_next_block(shared)[threadIdx.x] = 1;
  cluster_sync();
  arrays.out[here()] = shared[threadIdx.x];
}

template <bool kMended>
__device__ void cluster_end(Arrays arrays) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = 1;
  cluster_sync();
  arrays.out[here()] = of_next_block(shared)[threadIdx.x];
  if (kMended) cluster_sync();
}

// Between its arrival and its wait a thread sees nothing new of the other blocks.
template <bool kMended>
__device__ void cluster_halves(Arrays arrays) {
  __shared__ int shared[kThreads];
  cluster_sync();
  shared[threadIdx.x] = 1;
  cluster_arrive();
  const int early = kMended ? 0 : of_next_block(shared)[threadIdx.x];
  cluster_wait();
  arrays.out[here()] = early + of_next_block(shared)[threadIdx.x];
  cluster_sync();
}

template <bool kMended>
__device__ void cluster_barrier(Arrays) {
  if (kMended || threadIdx.x != 3 || cluster_rank() != 1) cluster_sync();
}

// --- bounds and what nobody wrote -------------------------------------------------------------------------------------
template <bool kMended>
__device__ void global_bounds(Arrays arrays) {
  arrays.out[here() + (kMended ? 0 : 1)] = 1;
}

template <bool kMended>
__device__ void global_bounds_below(Arrays arrays) {
  arrays.out[here() - (kMended ? 0 : 1)] = 1;
}

template <bool kMended>
__device__ void dynamic_bounds(Arrays) {
  dynamic_shared<int>()[threadIdx.x + (kMended ? 0 : 1)] = 1;
}

template <bool kMended>
__device__ void static_bounds(Arrays arrays) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x + (kMended ? 0 : 1)] = 1;
  if (kMended) arrays.out[here()] = shared[threadIdx.x];
}

template <bool kMended>
__device__ void static_bounds_by_pointer(Arrays arrays) {
  __shared__ int shared[kThreads];
  int* mine = shared + threadIdx.x;
  mine[kMended ? 0 : 1] = 1;
  if (kMended) arrays.out[here()] = shared[threadIdx.x];
}

template <bool kMended>
__device__ void uninitialised_shared(Arrays arrays) {
  __shared__ int shared[kThreads];
  if (kMended || threadIdx.x != 5) shared[threadIdx.x] = 1;
  __syncthreads();
  arrays.out[here()] = shared[threadIdx.x];
}

template <bool kMended>
__device__ void uninitialised_global(Arrays arrays) {
  if (kMended) arrays.out[here()] = 1;
  arrays.out[here()] += 1;
}

template <bool kMended>
__device__ void unwritten_output(Arrays arrays) {
  if (blockIdx.x == 0 && (kMended || threadIdx.x != 7)) arrays.one[threadIdx.x] = 1;
}

template <bool kMended>
__device__ void order_of_threads(Arrays arrays) {  // who comes first is nobody's mistake, but the result's
  const int ticket = atomicAdd(arrays.finished, 1u);
  if (blockIdx.x == 0) arrays.one[threadIdx.x] = kMended ? 1 : ticket;
}

template <bool kMended>
__device__ void unknown_address(Arrays arrays) {
  (kMended ? arrays.out + here() : arrays.unknown)[0] = 1;
}

// --- barriers and lanes -----------------------------------------------------------------------------------------------
template <bool kMended>
__device__ void divergent_barrier(Arrays) {
  if (kMended || threadIdx.x != 9) __syncthreads();
}

template <bool kMended>
__device__ void two_barriers(Arrays) {
  if (kMended || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

template <bool kMended>
__device__ void exited_lane(Arrays arrays) {
  if (!kMended && threadIdx.x == 31) return;
  arrays.out[here()] = __shfl_down_sync(kAll, 1, 1);
}

template <bool kMended>
__device__ void lane_outside_mask(Arrays arrays) {
  if (threadIdx.x < 8) arrays.out[here()] = __shfl_sync(0xFFu, 1, kMended ? 7 : 8);
}

template <bool kMended>
__device__ void divergent_shuffle(Arrays arrays) {
  const bool odd = threadIdx.x % 2 != 0;
  const unsigned mask = kMended ? (odd ? 0xAAAAAAAAu : 0x55555555u) : kAll;
  if (odd) {
    arrays.out[here()] = __shfl_xor_sync(mask, 1, 2);
  } else {
    arrays.out[here()] = __shfl_xor_sync(mask, 1, 4);
  }
}

// --- which of them ----------------------------------------------------------------------------------------------------
using Kernel = void (*)(Arrays);
struct Case {
  const char* name;
  Kernel planted, mended;
};
#define CASE(name) {#name, name<false>, name<true>}
const Case kCases[] = {
    CASE(syncthreads), CASE(syncthreads_after_reading), CASE(syncwarp), CASE(shuffle_as_barrier), CASE(part_of_a_warp),
    CASE(reading_an_atomic), CASE(initialising_an_atomic), CASE(bytes),
    CASE(blocks), CASE(blocks_reading), CASE(last_block), CASE(order_of_threads),
    CASE(cluster), CASE(cluster_start), CASE(cluster_end), CASE(cluster_halves), CASE(cluster_barrier),
    CASE(global_bounds), CASE(global_bounds_below), CASE(dynamic_bounds), CASE(static_bounds), CASE(static_bounds_by_pointer),
    CASE(uninitialised_shared), CASE(uninitialised_global), CASE(unwritten_output), CASE(unknown_address),
    CASE(divergent_barrier), CASE(two_barriers), CASE(exited_lane), CASE(lane_outside_mask), CASE(divergent_shuffle),
};

__global__ void planted(Kernel kernel, Arrays arrays) { kernel(arrays); }

}  // namespace

int main(int count, char** words) {
  Program program(count, words, "planted CASE MENDED BLOCKS CLUSTER WRITE");
  const Index blocks = program.integer("BLOCKS");
  Buffer<int> out("out", blocks * kThreads), one("one", kThreads);
  Buffer<unsigned char> bytes("bytes", kThreads);
  Buffer<unsigned> finished("finished", 1);
  finished.zero();
  const Arrays arrays{out.data(), one.data(), bytes.data(), finished.data(), no_buffer};
  for (const Case& one_case : kCases) {
    if (program.text("CASE") != one_case.name) continue;
    const Kernel kernel = program.integer("MENDED") ? one_case.mended : one_case.planted;
    launch<planted>({blocks, kThreads, kThreads * sizeof(int), program.integer("CLUSTER")}, kernel, arrays);
    if (program.integer("WRITE")) one.write();
    return 0;
  }
  fail("planted: no such case");
}
