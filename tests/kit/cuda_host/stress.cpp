// Phases from a plan: in each, every thread of a cluster changes or reads one cell of the cluster's shared memory, and then
// waits for more or fewer of the others. Whether a plan has races is known to who made it.
// A phase is (changes, barrier, cell by thread).
#include "driver.h"
// after the stand-in
#include "block.cuh"

using namespace mer_fast;

namespace {

enum Barrier { kNone, kHalfWarp, kWarp, kBlock, kCluster };

__device__ void wait_for(int barrier) {
  const unsigned last_lanes = blockDim.x % 32 == 0 ? 32 : blockDim.x % 32;
  const bool short_warp = threadIdx.x / 32 == (blockDim.x - 1) / 32 && last_lanes < 32;
  const unsigned warp = short_warp ? (1u << last_lanes) - 1u : 0xFFFFFFFFu;
  const unsigned half = warp & (threadIdx.x % 32 < 16 ? 0x0000FFFFu : 0xFFFF0000u);
  if (barrier == kHalfWarp) __syncwarp(half);
  if (barrier == kWarp) __syncwarp(warp);
  if (barrier == kBlock) __syncthreads();
  if (barrier == kCluster) cluster_sync();
}

template <typename Cell>
__global__ void stress(const int* plan, int phases, int* out) {
  Cell* cells = dynamic_shared<Cell>();
  const int n = blockDim.x, t = threadIdx.x, me = cluster_rank() * n + t;
  const int words = 2 + n * cluster_blocks();
  int sum = 0;
  cells[t] = static_cast<Cell>(me);
  cluster_sync();
  for (int k = 0; k < phases; ++k, plan += words) {
    const int cell = plan[2 + me];
    Cell* at = cluster_map(cells, cell / n) + cell % n;
    if (plan[0] != 0) *at = static_cast<Cell>(*at * 3u + me + k);
    if (plan[0] == 0) sum = static_cast<int>(sum * 5u + *at);
    wait_for(plan[1]);
  }
  cluster_sync();
  out[blockIdx.x * n + t] = static_cast<int>(sum * 7u + cells[t]);
}

}  // namespace

int main(int count, char** words) {
  Program program(count, words, "stress BYTES PHASES BLOCKS THREADS CLUSTER");
  const Index phases = program.integer("PHASES"), blocks = program.integer("BLOCKS");
  const Index threads = program.integer("THREADS"), cluster = program.integer("CLUSTER");
  Buffer<int> plan("plan", phases * (2 + threads * cluster)), out("out", blocks * threads);
  plan.read();
  if (program.integer("BYTES")) {
    launch<stress<unsigned char>>({blocks, threads, threads, cluster}, plan.data(), phases, out.data());
  } else {
    launch<stress<unsigned>>({blocks, threads, threads * sizeof(unsigned), cluster}, plan.data(), phases, out.data());
  }
  out.write();
}
