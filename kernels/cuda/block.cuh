// What the threads of a block, and the blocks of a cluster, share: dynamic shared memory and cluster barriers, in PTX so
// that NVRTC needs no header. Below sm_90 every block is a cluster of its own. Off CUDA, the stand-in
// (tests/kit/cuda_host) has all of these and comes first.
#pragma once

namespace mer_fast {

#ifdef __CUDACC__

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define MER_FAST_HAS_CLUSTERS 1
#else
#define MER_FAST_HAS_CLUSTERS 0
#endif

// The launch's dynamic shared memory, from its start, 16-byte aligned; of one kernel, every T is the same memory.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char mer_fast_dynamic_shared[];
  return reinterpret_cast<T*>(mer_fast_dynamic_shared);
}

// Which block of its cluster this is, and how many the cluster has (1 where the launch asks for none).
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
#if MER_FAST_HAS_CLUSTERS
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ __forceinline__ unsigned cluster_blocks() {
  unsigned blocks = 1;
#if MER_FAST_HAS_CLUSTERS
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#endif
  return blocks;
}

// A barrier of all threads of all blocks of the cluster, in two halves: what a thread did before it arrives is seen by
// every thread that has waited. Every thread calls both, in turns. The other blocks' shared memory may be touched only
// between a first barrier (they have started) and a last one (they have not ended).
__device__ __forceinline__ void cluster_arrive() {
#if MER_FAST_HAS_CLUSTERS
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if MER_FAST_HAS_CLUSTERS
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The same place in the shared memory of block `rank` of the cluster as `mine` is in this block's.
template <typename T>
__device__ __forceinline__ T* cluster_map(T* mine, unsigned rank) {
#if MER_FAST_HAS_CLUSTERS
  T* theirs;
  asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
  return theirs;
#else
  return mine;
#endif
}

#undef MER_FAST_HAS_CLUSTERS
#endif

}  // namespace mer_fast
