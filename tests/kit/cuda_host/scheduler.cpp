// Threads take turns: one runs until it has to wait, then the next that may. When none may and not all have ended, they
// wait for each other for ever, and the error says who waits where.
#include "scheduler.h"

#include <cstring>
#include <map>
#include <tuple>

namespace mer_fast::host {
namespace {

Fiber program;  // run_cluster's caller
Order* turns = nullptr;
Body kernel_body = nullptr;
const void* kernel_parameters = nullptr;
Block* in_place = nullptr;  // whose static shared memory is where the compiler put it

void push(Thread& thread) {
  Block& block = *thread.block;
  thread.wait = Wait::nothing;
  int place = block.first_ready + block.ready_count++;
  if (place >= block.count) place -= block.count;
  block.ready[place] = &thread;
}

Thread* pop(Block& block) {
  if (turns->kind == Order::random) {
    const int other = static_cast<int>((block.first_ready + turns->below(block.ready_count)) % block.count);
    std::swap(block.ready[other], block.ready[block.first_ready]);
  }
  Thread* thread = block.ready[block.first_ready];
  if (++block.first_ready == block.count) block.first_ready = 0;
  --block.ready_count;
  return thread;
}

// A block goes on while it can; in random order it sometimes makes place for another of its cluster.
Thread* next_thread() {
  const int blocks = static_cast<int>(cluster.blocks.size());
  Block* block = in_place != nullptr ? in_place : &cluster.blocks[turns->kind == Order::backward ? blocks - 1 : 0];
  if (blocks > 1 && turns->kind == Order::random && turns->below(16) == 0) block = &cluster.blocks[turns->below(blocks)];
  const int step = turns->kind == Order::backward ? blocks - 1 : 1;
  for (int k = 0; k < blocks; ++k) {
    if (block->ready_count > 0) return pop(*block);
    block = &cluster.blocks[(block->rank + step) % blocks];
  }
  return nullptr;
}

void put_in_place(Block& block) {
  const Span& statics = static_shared();
  if (statics.bytes > 0) {
    if (in_place != nullptr) std::memcpy(in_place->statics, statics.begin, statics.bytes);
    std::memcpy(statics.begin, block.statics, statics.bytes);
  }
  in_place = &block;
  blockIdx = block.id;
}

void resume(Fiber& from, Thread& thread) {
  if (thread.block != in_place) put_in_place(*thread.block);
  current = &thread;
  threadIdx = thread.id;
  if (&from != &thread.fiber) switch_fiber(from, thread.fiber);
}

[[noreturn]] void report_deadlock() {
  using Place = std::tuple<int, Wait, std::string>;
  std::map<Place, std::pair<int, int>> places;  // how many threads, and the first
  for (const Block& block : cluster.blocks) {
    for (int k = 0; k < block.count; ++k) {
      const Thread& thread = block.threads[k];
      const std::string where = thread.wait == Wait::over ? "" : text_of(thread.site);
      auto [found, is_new] = places.try_emplace({block.rank, thread.wait, where}, 0, k);
      ++found->second.first;
    }
  }
  std::string told;
  for (const auto& [place, threads] : places) {
    const Block& block = cluster.blocks[std::get<0>(place)];
    told += (told.empty() ? "" : "; ") + std::to_string(threads.first) + " (first: " + name_of(block, threads.second) + ")";
    told += std::get<1>(place) == Wait::over ? " left the kernel" : " at " + std::get<2>(place);
  }
  end_program("kernel " + kernel_name() + ": threads wait for each other for ever: " + told);
}

void wait_for(Wait wait, const Site& site) {
  Thread& me = *current;
  me.wait = wait;
  me.site = site;
}

void give_turn() {
  Thread& me = *current;
  Thread* next = next_thread();
  if (next == nullptr) report_deadlock();
  resume(me.fiber, *next);
}

void push_lanes(Block& block, const Warp& warp, unsigned lanes) {
  Thread* threads = block.threads + 32 * (&warp - block.warps.data());
  const bool backward = turns->kind == Order::backward;
  for (int k = 0; k < 32; ++k) {
    const int lane = backward ? 31 - k : k;
    if (lanes >> lane & 1u) push(threads[lane]);
  }
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.what, b.what) == 0 && std::strcmp(a.file, b.file) == 0;
}

void end_thread() {
  Thread& me = *current;
  Block& block = *me.block;
  if (me.between) broken(me.site, "the thread left the kernel between arriving at a cluster barrier and waiting");
  thread_ends(me);
  me.wait = Wait::over;
  me.warp->left |= 1u << me.lane();
  --block.alive;
  if (++cluster.over == cluster.threads) {
    current = nullptr;
    switch_fiber(me.fiber, program);
    return;
  }
  give_turn();
}

// The lanes that wait for exactly these. Others of them may still wait at an earlier place, for fewer.
Gathering& gathering_of(Warp& warp, unsigned expected, const Site& site) {
  for (int k = 0; k < warp.open; ++k) {
    Gathering& gathering = warp.gatherings[k];
    if (gathering.mask != expected) continue;
    if (!same(gathering.site, site)) broken(site, ("another lane of the mask waits at " + text_of(gathering.site)).c_str());
    return gathering;
  }
  return warp.gatherings[warp.open++] = {expected, 0, site};
}

// Joins the lanes of `mask`; the last to come releases them all, after `release`.
template <typename Release>
void gather(unsigned mask, const Site& site, const Release& release) {
  Thread& me = *current;
  Warp& warp = *me.warp;
  const unsigned mine = 1u << me.lane(), expected = mask & warp.exists;
  if ((mask & mine) == 0) broken(site, "the calling lane is not in its own mask");
  if (expected & warp.left) broken(site, "the mask names a lane whose thread has left the kernel");
  Gathering& gathering = gathering_of(warp, expected, site);
  gathering.arrived |= mine;
  wait_for(Wait::warp, site);
  if (gathering.arrived == expected) {
    gathering = warp.gatherings[--warp.open];
    release(expected);
    push_lanes(*me.block, warp, expected);
  }
  give_turn();
}

}  // namespace

void thread_main() {
  fiber_entered();
  for (;;) {
    watched = current;
    kernel_body(kernel_parameters);
    watched = nullptr;
    end_thread();
  }
}

void make_ready(Block& block, const Order& order) {
  block.first_ready = block.ready_count = 0;
  for (int k = 0; k < block.count; ++k) push(block.threads[order.kind == Order::backward ? block.count - 1 - k : k]);
}

void run_cluster(Order& order, Body body, const void* parameters) {
  turns = &order;
  kernel_body = body;
  kernel_parameters = parameters;
  in_place = nullptr;
  resume(program, *next_thread());
  in_place = nullptr;
}

int block_barrier(int predicate, Site site) {
  const InRuntime inside;
  Thread& me = *current;
  Block& block = *me.block;
  if (block.arrived == 0) block.site = site;
  if (!same(block.site, site)) broken(site, ("other threads of the block wait at " + text_of(block.site)).c_str());
  block.predicates += predicate != 0;
  wait_for(Wait::block, site);
  if (++block.arrived == block.count) {
    block.result = block.predicates;
    block.arrived = block.predicates = 0;
    block_synchronised(block);
    make_ready(block, *turns);
  }
  give_turn();
  return block.result;
}

void warp_barrier(unsigned mask, Site site) {
  const InRuntime inside;
  Warp& warp = *current->warp;
  Block& block = *current->block;
  gather(mask, site, [&](unsigned lanes) { warp_synchronised(block, warp, lanes); });
}

unsigned warp_vote(unsigned mask, bool predicate, Site site) {
  const InRuntime inside;
  Thread& me = *current;
  Warp& warp = *me.warp;
  Thread* lanes_threads = me.block->threads + (me.index - me.lane());
  warp.values[me.lane()] = predicate;
  gather(mask, site, [&](unsigned lanes) {
    unsigned votes = 0;
    for (int k = 0; k < 32; ++k) votes |= (lanes >> k & 1u) != 0 && warp.values[k] != 0 ? 1u << k : 0u;
    for (int k = 0; k < 32; ++k) {
      if (lanes >> k & 1u) lanes_threads[k].exchanged = votes;
    }
  });
  return static_cast<unsigned>(me.exchanged);
}

Bits warp_exchange(unsigned mask, Bits value, int source_lane, Site site) {
  const InRuntime inside;
  Thread& me = *current;
  Warp& warp = *me.warp;
  Thread* lanes_threads = me.block->threads + (me.index - me.lane());
  if ((mask & warp.exists & 1u << source_lane) == 0) {
    broken(site, ("it reads lane " + std::to_string(source_lane) + ", which takes no part").c_str());
  }
  warp.values[me.lane()] = value;
  warp.sources[me.lane()] = source_lane;
  gather(mask, site, [&](unsigned lanes) {
    for (int k = 0; k < 32; ++k) {
      if (lanes >> k & 1u) lanes_threads[k].exchanged = warp.values[warp.sources[k]];
    }
  });
  return me.exchanged;
}

int lane_of_thread() { return current->lane(); }

void cluster_arrive(Site site) {
  const InRuntime inside;
  Thread& me = *current;
  if (me.between) broken(site, "the thread arrives twice without waiting");
  me.between = true;
  me.site = site;
  ++me.arrivals;
  thread_arrived(me);
  if (++cluster.arrived < cluster.threads) return;
  cluster.arrived = 0;
  ++cluster.completed;
  for (Block& block : cluster.blocks) {
    const bool backward = turns->kind == Order::backward;
    for (int k = 0; k < block.count; ++k) {
      Thread& thread = block.threads[backward ? block.count - 1 - k : k];
      if (thread.wait == Wait::cluster) push(thread);
    }
  }
}

void cluster_wait(Site site) {
  const InRuntime inside;
  Thread& me = *current;
  if (!me.between) broken(site, "the thread waits without having arrived");
  if (cluster.completed < me.arrivals) {
    wait_for(Wait::cluster, site);
  } else {
    push(me);
  }
  give_turn();
  me.between = false;
  thread_waited(me);
}

unsigned cluster_rank() { return static_cast<unsigned>(current->block->rank); }
unsigned cluster_blocks() { return static_cast<unsigned>(cluster.blocks.size()); }
void* dynamic_shared() { return current->block->dynamic; }

}  // namespace mer_fast::host
