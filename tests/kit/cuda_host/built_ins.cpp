// Built-ins whose results are known: a row of (ROWS, threads) each, in a block of 80 threads, two and a half warps.
#include "driver.h"
// after the stand-in
#include "block.cuh"

using namespace mer_fast;

namespace {

constexpr int kThreads = 80, kShuffles = 10, kVotes = 7, kAtomics = 9;

__device__ unsigned lanes(int t) { return t < 64 ? 0xFFFFFFFFu : 0xFFFFu; }

__global__ void shuffles(double* out) {
  const int t = threadIdx.x;
  double* mine = out + t;
  const auto put = [&](double value) { *mine = value, mine += kThreads; };
  put(__shfl_sync(lanes(t), t, 5));
  put(__shfl_sync(lanes(t), t, 3 * t, 8));
  put(__shfl_up_sync(lanes(t), t, 3u, 16));
  put(__shfl_down_sync(lanes(t), t, 5u, 8));
  put(__shfl_xor_sync(lanes(t), t, 9, 16));
  put(__shfl_xor_sync(lanes(t), t, 12, 8));  // earlier segments only
  put(__shfl_sync(lanes(t), 0.5f * t, 1, 2));
  put(__shfl_sync(lanes(t), 1e-9 + t, 15));
  put(static_cast<double>(__shfl_sync(lanes(t), (1ull << 40) + t, 3)));
  float sum = static_cast<float>(t);
  for (int d = 8; d > 0; d /= 2) sum += __shfl_down_sync(lanes(t), sum, d, 16);
  put(sum);
}

__global__ void votes(double* out) {
  const int t = threadIdx.x + 8 * (threadIdx.y + 5 * threadIdx.z);
  double* mine = out + t;
  const auto put = [&](double value) { *mine = value, mine += kThreads; };
  put(__ballot_sync(lanes(t), t % 3 == 0));
  put(__any_sync(lanes(t), t == 70));
  put(__all_sync(lanes(t), t < 64));
  put(__syncthreads_count(t % 7 == 0));
  put(__syncthreads_or(t == 79));
  put(__syncthreads_and(t != 3));
  put(t % 2 ? __ballot_sync(lanes(t) & 0xAAAAAAAAu, t > 40) : __ballot_sync(lanes(t) & 0x55555555u, t > 40));
}

__global__ void atomics(double* out) {
  __shared__ int sum, least, most, first;
  __shared__ unsigned ring, bits;
  __shared__ unsigned long long far;
  __shared__ float real;
  const int t = threadIdx.x;
  if (t == 0) sum = 100, least = 50, most = 50, first = -1, ring = 0, bits = 1, far = 1ull << 40, real = 0.5f;
  __syncthreads();
  atomicAdd(&sum, t), atomicSub(&sum, 1);
  atomicMin(&least, t - 20), atomicMax(&most, t);
  atomicCAS(&first, -1, 7);
  atomicInc(&ring, 6u);  // 0 to 6
  atomicOr(&bits, 1u << t % 20);
  atomicAdd(&far, static_cast<unsigned long long>(t));
  atomicAdd(&real, 0.25f);
  __syncthreads();
  __shared__ int swapped;
  if (t == 0) swapped = 1000;
  __syncthreads();
  const int old = atomicExch(&swapped, t);
  const int all = __syncthreads_count(old == 1000);  // one thread finds what was there
  const double rows[kAtomics] = {double(sum), double(least), double(most), double(first), double(ring),
                                 double(bits), double(far), real, double(all)};
  for (int k = 0; k < kAtomics; ++k) out[k * kThreads + t] = rows[k];
}

// Every thread's number summed over the cluster, by dynamic and by static shared memory.
__global__ void cluster_sums(double* out) {
  double* numbers = dynamic_shared<double>();
  __shared__ double other_numbers[kThreads];
  const int t = threadIdx.x;
  numbers[t] = blockIdx.x * kThreads + t;
  other_numbers[t] = -numbers[t];
  cluster_arrive();
  cluster_wait();
  double sum = 0, other_sum = 0;
  for (unsigned rank = 0; rank < cluster_blocks(); ++rank) {
    sum += cluster_map(numbers, rank)[(t + 1) % kThreads];
    other_sum += cluster_map(other_numbers, rank)[(t + 1) % kThreads];
  }
  cluster_sync();
  out[blockIdx.x * kThreads + t] = sum + 0.5 * other_sum + 1000000.0 * cluster_rank();
}

}  // namespace

int main(int count, char** words) {
  Program program(count, words, "built_ins BLOCKS CLUSTER");
  const Index blocks = program.integer("BLOCKS");
  Buffer<double> shuffled("shuffled", kShuffles * kThreads), voted("voted", kVotes * kThreads);
  Buffer<double> changed("changed", kAtomics * kThreads), summed("summed", blocks * kThreads);
  launch<shuffles>({1, kThreads}, shuffled.data());
  launch<votes>({1, dim3(8, 5, 2)}, voted.data());
  launch<atomics>({1, kThreads}, changed.data());
  launch<cluster_sums>({blocks, kThreads, kThreads * sizeof(double), program.integer("CLUSTER")}, summed.data());
  shuffled.write();
  voted.write();
  changed.write();
  summed.write();
}
