// Launches: blocks one after another or in clusters, their threads taking turns, shared memory fresh for each block.
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "scheduler.h"

namespace mer_fast::host {

Thread* current = nullptr;
Thread* watched = nullptr;
Cluster cluster;

namespace {

constexpr size_t kSharedLimit = 227 * 1024;

Order order;
std::string kernel;
long long launches = 0, blocks_launched = 0;

// The thread-local variables of the program itself are its static shared memory.
int find_statics(dl_phdr_info* program, size_t, void* found) {
  for (int k = 0; k < program->dlpi_phnum; ++k) {
    const auto& part = program->dlpi_phdr[k];
    if (part.p_type == PT_TLS && program->dlpi_tls_data != nullptr) {
      *static_cast<Span*>(found) = {static_cast<unsigned char*>(program->dlpi_tls_data), part.p_memsz};
    }
  }
  return 1;  // the first is the program
}

std::string kernel_in(const std::string& signature) {
  const std::string mark = "kKernel = ";
  const size_t begin = signature.find(mark) + mark.size();
  std::string name = signature.substr(begin, signature.find_first_of(";]", begin) - begin);
  for (const std::string outer : {"{anonymous}::", "mer_fast::", "&"}) {
    for (size_t at; (at = name.find(outer)) != std::string::npos;) name.erase(at, outer.size());
  }
  return name;
}

unsigned char poison() { return poison_with_ones() ? 0xFF : 0; }

void check_shape(const LaunchShape& shape) {
  const auto refuse = [](const std::string& reason) { end_program("kernel " + kernel + ": " + reason); };
  const size_t threads = static_cast<size_t>(shape.block.x) * shape.block.y * shape.block.z;
  const size_t blocks = static_cast<size_t>(shape.grid.x) * shape.grid.y * shape.grid.z;
  if (threads < 1 || threads > 1024) refuse("a block has 1 to 1024 threads, not " + std::to_string(threads));
  if (shape.grid.y > 65535 || shape.grid.z > 65535) refuse("a grid has at most 65535 blocks along y and z");
  if (blocks < 1 || blocks > 0x7FFFFFFF) refuse("a grid has 1 to 2^31 - 1 blocks here, not " + std::to_string(blocks));
  if (shape.shared > kSharedLimit) {
    refuse(
        "a block has at most " + std::to_string(kSharedLimit) + " bytes of shared memory, not " + std::to_string(shape.shared));
  }
  if (shape.cluster < 1 || shape.cluster > 16) refuse("a cluster has 1 to 16 blocks, not " + std::to_string(shape.cluster));
  if (shape.grid.x % shape.cluster != 0) refuse("the grid along x is no multiple of the cluster");
}

void shape_block(Block& block, const LaunchShape& shape, Thread* threads) {
  block.threads = threads;
  block.count = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  block.warps.resize((block.count + 31) / 32);
  block.ready.resize(block.count);
  for (int k = 0; k < block.count; ++k) {
    Thread& thread = threads[k];
    thread.block = &block;
    thread.warp = &block.warps[k / 32];
    thread.index = k;
    thread.id = dim3(k % shape.block.x, k / shape.block.x % shape.block.y, k / shape.block.x / shape.block.y);
  }
}

// One fiber a thread of the largest cluster so far; they are never destroyed.
Thread* threads_for(int count) {
  static std::vector<Thread> pool;
  if (static_cast<int>(pool.size()) < count) {
    std::vector<Fiber> fibers(count);
    make_fibers(fibers.data(), count, thread_main);
    pool.assign(count, Thread{});
    for (int k = 0; k < count; ++k) pool[k].fiber = fibers[k];
  }
  return pool.data();
}

void begin_block(Block& block, const LaunchShape& shape, unsigned number) {
  block.id = dim3(number % shape.grid.x, number / shape.grid.x % shape.grid.y, number / shape.grid.x / shape.grid.y);
  block.alive = block.count;
  block.arrived = block.predicates = 0;
  block.barriers = 0;
  block.touched = false;
  block.serial = number;
  for (int w = 0; w < static_cast<int>(block.warps.size()); ++w) {
    const int lanes = std::min(32, block.count - 32 * w);
    block.warps[w] = Warp{};
    block.warps[w].exists = lanes == 32 ? ~0u : (1u << lanes) - 1u;
  }
  for (int k = 0; k < block.count; ++k) {
    Thread& thread = block.threads[k];
    thread.wait = Wait::nothing;
    thread.between = thread.fenced = false;
    thread.arrivals = thread.acquired = 0;
  }
  if (shape.shared > 0) std::fill_n(block.dynamic, shape.shared, poison());
  if (static_shared().bytes > 0) std::fill_n(block.statics, static_shared().bytes, poison());
}

void begin_cluster(const LaunchShape& shape, unsigned number) {
  for (Block& block : cluster.blocks) begin_block(block, shape, number * shape.cluster + block.rank);
  cluster.arrived = cluster.over = 0;
  cluster.completed = 0;
  cluster.serial = number;
  cluster_begins();
  for (Block& block : cluster.blocks) make_ready(block, order);
}

}  // namespace

const Span& static_shared() {
  static const Span statics = [] {
    Span found;
    dl_iterate_phdr(find_statics, &found);
    return found;
  }();
  return statics;
}

unsigned Order::below(unsigned bound) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return static_cast<unsigned>((seed >> 33) % bound);
}

void set_order(const std::string& word) {
  order = Order{};
  if (word == "backward") order.kind = Order::backward;
  if (word == "forward" || word == "backward") return;
  char* end = nullptr;
  order = {Order::random, std::strtoull(word.c_str(), &end, 10)};
  if (word.empty() || *end != 0) end_program("ORDER is forward, backward or a seed, not " + word);
}

bool poison_with_ones() { return order.kind != Order::backward; }
const std::string& kernel_name() { return kernel; }
std::string launches_text() {
  return "launches " + std::to_string(launches) + " blocks " + std::to_string(blocks_launched);
}

void run_grid(const char* signature, const LaunchShape& shape, Body body, const void* parameters, size_t bytes) {
  kernel = kernel_in(signature);
  check_shape(shape);
  const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z, clusters = blocks / shape.cluster;
  launches += 1;
  blocks_launched += blocks;
  gridDim = shape.grid;
  blockDim = shape.block;

  const int count = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  cluster.threads = count * static_cast<int>(shape.cluster);
  Thread* threads = threads_for(cluster.threads);
  cluster.blocks.assign(shape.cluster, Block{});
  std::vector<unsigned char> statics(static_shared().bytes * shape.cluster);
  for (unsigned rank = 0; rank < shape.cluster; ++rank) {
    Block& block = cluster.blocks[rank];
    block.rank = static_cast<int>(rank);
    shape_block(block, shape, threads + rank * count);
    block.dynamic = shape.shared > 0 ? allocate_shared(block.rank, shape.shared) : nullptr;
    block.dynamic_bytes = shape.shared;
    block.statics = statics.data() + rank * static_shared().bytes;
  }
  grid_begins(parameters, bytes, static_cast<int>(blocks));

  std::vector<unsigned> turns(clusters);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order.kind == Order::backward) std::reverse(turns.begin(), turns.end());
  if (order.kind == Order::random) {
    for (unsigned k = clusters; k > 1; --k) std::swap(turns[k - 1], turns[order.below(k)]);
  }
  for (const unsigned turn : turns) {
    begin_cluster(shape, turn);
    run_cluster(order, body, parameters);
  }
  for (Block& block : cluster.blocks) {
    if (block.dynamic != nullptr) release_shared(block.rank, block.dynamic);
  }
  grid_ends();
}

}  // namespace mer_fast::host
