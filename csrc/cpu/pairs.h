// A batch of pairs of frames over torch's threads: a thread a pair while there are pairs enough, several threads for each of
// those left over. And the check of their values.
#pragma once

#include <sched.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "../checks.h"
#include "arena.h"

namespace mer_fast {

// Pairs [first, last), one thread each, the next pair to whoever is free.
template <typename Make, typename Solve>
void solve_alone(const Make& make, const Solve& solve, int64_t first, int64_t last, int threads) {
  std::atomic<int64_t> next{first};
  torch::stable::parallel_for(0, std::min<int64_t>(threads, last - first), 1, [&](int64_t, int64_t) {
    auto space = make(1, worker_arena());
    for (int64_t pair; (pair = next.fetch_add(1)) < last;) solve(space, pair, 0);
    worker_arena().trim();
  });
}

// Pairs [first, last), `members` threads each, all at once. The thread pool may give fewer threads than were asked for
// (none but the caller's inside another parallel region), and then one call stands for several members: since barriers
// need all members at once, each call first says how many it stands for, and only when every call stands for one do the
// teams form; otherwise the pairs are solved alone.
template <typename Make, typename Solve>
void solve_in_teams(const Make& make, const Solve& solve, int64_t first, int64_t last, int members) {
  using Space = decltype(make(1, worker_arena()));
  thread_local std::vector<Arena> kept;  // the caller's, and so nobody else's until this call returns
  std::vector<Arena>& arenas = kept;
  if (static_cast<int64_t>(arenas.size()) < last - first) arenas.resize(static_cast<size_t>(last - first));
  std::vector<std::unique_ptr<Space>> spaces;
  for (int64_t k = 0; k < last - first; ++k) spaces.emplace_back(new Space(make(members, arenas[static_cast<size_t>(k)])));
  const int64_t total = (last - first) * members;
  std::atomic<int64_t> arrived{0}, next{first};
  std::atomic<bool> crowded{false};
  torch::stable::parallel_for(0, total, 1, [&](int64_t begin, int64_t end) {
    if (end - begin > 1) crowded = true;
    arrived += end - begin;
    while (arrived.load() < total) sched_yield();
    if (!crowded) {
      solve(*spaces[static_cast<size_t>(begin / members)], first + begin / members, static_cast<int>(begin % members));
      return;
    }
    auto space = make(1, worker_arena());
    for (int64_t pair; (pair = next.fetch_add(1)) < last;) solve(space, pair, 0);
    worker_arena().trim();
  });
  for (Arena& arena : arenas) arena.trim();
}

// Solves pairs 0..count. make(members, arena) gives the memory that a team works in, solve(memory, pair, rank) runs one
// member; a pair takes `most` members at most.
template <typename Make, typename Solve>
void solve_pairs(int64_t count, int64_t most, const Make& make, const Solve& solve) {
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  const int64_t together = count % threads;
  const int members = together ? static_cast<int>(std::min(threads / together, std::max<int64_t>(1, most))) : 1;
  const int64_t alone = members > 1 ? count - together : count;
  if (alone) solve_alone(make, solve, 0, alone, threads);
  if (alone < count) solve_in_teams(make, solve, alone, count, members);
}

enum class Fault { none, nan, range };

// A value outside [low, high], or NaN, anywhere?
inline Fault find_fault(const float* values, int64_t count, float low, float high) {
  std::atomic<bool> nan{false}, range{false};
  torch::stable::parallel_for(0, count, 1 << 16, [&](int64_t begin, int64_t end) {
    bool any_nan = false, any_outside = false;
    for (int64_t i = begin; i < end; ++i) {
      any_nan |= values[i] != values[i];
      any_outside |= values[i] < low || values[i] > high;
    }
    if (any_nan) nan = true;
    if (any_outside) range = true;
  });
  return nan ? Fault::nan : range ? Fault::range : Fault::none;
}

// Frames of 0..255 given as floats would be multiplied by 255 once more: a wrong flow without any other sign.
inline void check_frame_values(const char* op, const char* name, const float* values, int64_t count) {
  const Fault fault = find_fault(values, count, -1.0f, 2.0f);
  MER_FAST_CHECK(fault != Fault::nan, op, ": ", name, " has NaN; fill or drop those pixels first");
  MER_FAST_CHECK(
      fault != Fault::range, op, ": ", name,
      " has values outside [-1, 2]; float frames are nominally 0..1, so divide 0..255 data by 255 or pass uint8");
}

inline void check_flow_values(const char* op, const float* values, int64_t count) {
  constexpr float most = std::numeric_limits<float>::max();
  MER_FAST_CHECK(
      find_fault(values, count, -most, most) == Fault::none, op,
      ": initial_flow has NaN or infinite values; start those pixels from 0");
}

}  // namespace mer_fast
