// What comes before what: the barriers of blocks, warps and clusters, and fences with atomics, as counters.
#include <algorithm>
#include <unordered_map>

#include "tracker.h"

namespace mer_fast::host {

std::vector<Interval> intervals(2);  // 0 is never, 1 the host
unsigned first_interval = 2, first_cluster_interval = 2;

namespace {

// What another block has let know through atomics: its doings before its barrier `barriers`, and those after it of the
// warp that released them (of all its warps, if several did).
struct Known {
  unsigned barriers = 0;
  int warp = -2;
  bool nothing() const { return warp == -2; }
  void join(const Known& other) {
    if (other.nothing()) return;
    if (nothing() || barriers < other.barriers) {
      *this = other;
    } else if (barriers == other.barriers && warp != other.warp) {
      warp = -1;
    }
  }
};
using Knowledge = std::vector<Known>;  // by block

int blocks_of_grid = 0;
std::unordered_map<unsigned, Knowledge> known;             // by who knows it
std::unordered_map<const void*, Knowledge> released;  // by the atomic's address

void join(Knowledge& to, const Knowledge& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (size_t k = 0; k < from.size(); ++k) to[k].join(from[k]);
}

// All threads of a block between two barriers share an interval; on both sides of a cluster_arrive they have two.
unsigned interval_for(Block& block, unsigned arrivals) {
  unsigned& number = block.intervals[arrivals & 1u];
  const Interval wanted{block.serial, cluster.serial, block.barriers, arrivals};
  const Interval& has = intervals[number];
  const bool same = has.block == wanted.block && has.barriers == wanted.barriers && has.arrivals == arrivals;
  if (number < first_cluster_interval || !same) {
    number = static_cast<unsigned>(intervals.size());
    intervals.push_back(wanted);
  }
  return number;
}

void restamp(Thread& thread) {
  const unsigned clock = thread.warp->seen[thread.lane()][thread.lane()];
  thread.stamp = stamp_of(interval_for(*thread.block, thread.arrivals), thread.index, clock);
}

bool same_warp(Stamp stamp, const Thread& me) { return thread_of(stamp) / 32 == me.index / 32; }

bool knows_lane(const Thread& me, int lane, unsigned clock) {
  return lane == me.lane() || clock < me.warp->seen[me.lane()][lane];
}

// By barriers of whole blocks or clusters, whatever the thread.
bool interval_is_before(const Interval& then, const Thread& me) {
  if (then.block == me.block->serial && then.barriers < me.block->barriers) return true;
  return then.cluster == cluster.serial && then.arrivals < me.acquired;
}

bool is_known_by_atomics(Stamp stamp, const Interval& then, const Thread& me) {
  const auto mine = known.find(me.block->serial);
  if (mine == known.end() || mine->second.size() <= then.block) return false;
  const Known& theirs = mine->second[then.block];
  if (theirs.nothing()) return false;
  return then.barriers < theirs.barriers ||
         (then.barriers == theirs.barriers && (theirs.warp == -1 || theirs.warp == thread_of(stamp) / 32));
}

}  // namespace

void begin_order(int blocks) {
  first_interval = static_cast<unsigned>(intervals.size());
  blocks_of_grid = blocks;
  known.clear();
  released.clear();
}

void begin_cluster_order() {
  first_cluster_interval = static_cast<unsigned>(intervals.size());
  for (Block& block : cluster.blocks) {
    for (int k = 0; k < block.count; ++k) block.threads[k].passed = first_cluster_interval;
  }
  for (Block& block : cluster.blocks) {
    for (int k = 0; k < block.count; ++k) restamp(block.threads[k]);
  }
}

void block_synchronised(Block& block) {
  ++block.barriers;
  const bool alone = cluster.blocks.size() == 1;
  const auto now = static_cast<unsigned>(intervals.size());
  unsigned acquired = 0;
  for (int k = 0; k < block.count; ++k) acquired = std::max(acquired, block.threads[k].acquired);
  for (int k = 0; k < block.count; ++k) {
    block.threads[k].acquired = acquired;
    if (alone) block.threads[k].passed = now;
    restamp(block.threads[k]);
  }
}

void warp_synchronised(Block& block, Warp& warp, unsigned lanes) {
  Thread* threads = block.threads + 32 * (&warp - block.warps.data());
  unsigned joined[32] = {}, acquired = 0;
  for (int k = 0; k < 32; ++k) {
    if ((lanes >> k & 1u) == 0) continue;
    ++warp.seen[k][k];
    for (int j = 0; j < 32; ++j) joined[j] = std::max(joined[j], warp.seen[k][j]);
    acquired = std::max(acquired, threads[k].acquired);
  }
  for (int k = 0; k < 32; ++k) {
    if ((lanes >> k & 1u) == 0) continue;
    std::copy_n(joined, 32, warp.seen[k]);
    threads[k].acquired = acquired;
    restamp(threads[k]);
  }
}

void thread_arrived(Thread& thread) {
  if (cluster.arrived == 0) cluster.passed = static_cast<unsigned>(intervals.size());
  restamp(thread);
}

void thread_waited(Thread& thread) {
  thread.acquired = std::max(thread.acquired, thread.arrivals);
  if (cluster.arrived == 0) thread.passed = std::max(thread.passed, cluster.passed);  // nobody is at the next barrier yet
}
void thread_fence() { current->fenced = true; }

bool is_before(Stamp stamp, const Thread& me) {
  const unsigned number = interval_of(stamp);
  if (number < first_interval) return true;
  const Interval& then = intervals[number];
  const bool near = then.block == me.block->serial && same_warp(stamp, me);
  if (near && knows_lane(me, thread_of(stamp) % 32, clock_of(stamp))) return true;
  return interval_is_before(then, me) || is_known_by_atomics(stamp, then, me);
}

bool readers_are_before(const Cell& cell, const Thread& me) {
  if (cell.readers == Readers::one) return is_before(cell.read, me);
  const unsigned number = interval_of(cell.read);
  if (number < first_interval) return true;
  const Interval& then = intervals[number];
  switch (cell.readers) {
    case Readers::lanes:
      if (then.block == me.block->serial && same_warp(cell.read, me)) {
        unsigned unknown = 0;
        for (int k = 0; k < 32; ++k) unknown |= knows_lane(me, k, clock_of(cell.read)) ? 0u : 1u << k;
        if ((cell.lanes & unknown) == 0) return true;
      }
      return interval_is_before(then, me) || is_known_by_atomics(cell.read, then, me);
    case Readers::warps:
      return interval_is_before(then, me) || is_known_by_atomics(cell.read, then, me);
    case Readers::blocks:
      return then.cluster == cluster.serial && then.arrivals < me.acquired;
    default:
      return known.count(me.block->serial) > 0;  // which of the blocks it knows is not kept
  }
}

// Some readers are not before `me`. Of several clocks in a warp the lowest is kept, so a race may be missed, and none is
// reported wrongly.
void add_reader(Cell& cell, const Thread& me) {
  const Interval& then = intervals[interval_of(cell.read)];
  const Interval& now = intervals[interval_of(me.stamp)];
  const bool few = cell.readers == Readers::one || cell.readers == Readers::lanes;
  if (cell.readers == Readers::clusters || then.cluster != now.cluster) {
    cell.readers = Readers::clusters;
  } else if (cell.readers == Readers::blocks || then.block != now.block) {
    cell.readers = Readers::blocks;
  } else if (!few || !same_warp(cell.read, me)) {
    cell.readers = Readers::warps;
  } else if (interval_of(cell.read) == interval_of(me.stamp)) {
    if (cell.readers == Readers::one) cell.lanes = 1u << thread_of(cell.read) % 32;
    cell.readers = Readers::lanes;
    cell.lanes |= 1u << me.lane();
    if (clock_of(me.stamp) < clock_of(cell.read)) cell.read = me.stamp;
  } else {
    cell.readers = Readers::one;
    cell.read = me.stamp;
  }
  if (then.arrivals < now.arrivals || then.cluster != now.cluster) cell.read = me.stamp;
}

void order_by_atomic(const void* address, Thread& me) {
  const auto letter = released.find(address);
  if (letter != released.end()) join(known[me.block->serial], letter->second);
  if (!me.fenced) return;
  Knowledge& all = released[address];
  const auto mine = known.find(me.block->serial);
  if (mine != known.end()) join(all, mine->second);
  if (all.size() <= me.block->serial) all.resize(blocks_of_grid);
  all[me.block->serial].join({me.block->barriers, me.index / 32});
}

}  // namespace mer_fast::host
