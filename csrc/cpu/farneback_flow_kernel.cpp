#include "farneback_flow_kernel.h"

#include "farneback_flow_pyramid.h"
#include "farneback_flow_sweep.h"

namespace mer_fast::MER_ISA {

namespace {

// What one member of the team knows while it solves a pair.
struct Member {
  FarnebackWork& work;
  int rank;
  int turn = 0;  // which of the two flows is the latest

  Rows rows(const FarnebackLevel& level) const { return rows_of(level.height, rank, work.team.size); }
  Scratch scratch() const { return Scratch(work.scratch[rank]); }
  float* expanded(int frame) const { return work.expanded[frame] + kFarnebackBefore; }
  Flow flow(int which, const FarnebackLevel& level) const {
    return {work.moving[which], work.moving[which] + level.height * level.pitch};
  }
};

void load_frames(const Member& m) {
  const FarnebackWork& w = m.work;
  const Rows rows = m.rows(w.level[0]);
  for (int k = 0; k < 2; ++k) load_frame(w.frame[k], rows.begin * w.level[0].width, rows.end * w.level[0].width, w.full[k]);
}

void build_images(const Member& m, const FarnebackLevel& level) {
  const FarnebackWork& w = m.work;
  const Rows rows = m.rows(level);
  const Smoother smoother(w.level[0], level, m.scratch());
  for (int k = 0; k < 2; ++k) {
    for (int64_t y = rows.begin; y < rows.end; ++y) smoother.row(w.full[k], y, w.image[k] + y * level.pitch);
  }
}

// The flow that a level starts from: none, the caller's, or the coarser level's, grown.
void start_flow(const Member& m, int s) {
  const FarnebackWork& w = m.work;
  const FarnebackLevel &level = w.level[s], &full = w.level[0];
  const Flow out = m.flow(m.turn ^ 1, level);
  const Rows rows = m.rows(level);
  Scratch scratch = m.scratch();
  const auto fill = [&](const auto& row_of, float* plane) {
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      float* const row = plane + y * level.pitch;
      row_of(y, row);
      for (int64_t x = level.width; x < level.pitch; ++x) row[x] = row[level.width - 1];
    }
  };
  if (s + 1 < w.levels) {
    const FarnebackLevel& from = w.level[s + 1];
    const double scale_y = static_cast<double>(from.height) / static_cast<double>(level.height);
    const double scale_x = static_cast<double>(from.width) / static_cast<double>(level.width);
    float* const memory = scratch.take(from.width + 1 + 2 * level.width);
    const auto grow = [&](const float* plane, float* to) {
      const Resizer resizer({plane, from.height, from.width, from.pitch}, level.width, scale_y, scale_x, w.growth, memory);
      fill([&](int64_t y, float* row) { resizer.row(y, row); }, to);
    };
    const Flow latest = m.flow(m.turn, from);
    grow(latest.u, out.u);
    grow(latest.v, out.v);
  } else if (w.initial_flow) {
    float* const memory = scratch.take(full.width);
    const auto shrink = [&](const float* plane, float* to) {
      fill([&](int64_t y, float* row) { area_row(plane, full, level, y, w.initial_scale, memory, row); }, to);
    };
    shrink(w.initial_flow, out.u);
    shrink(w.initial_flow + full.height * full.width, out.v);
  } else {
    const size_t bytes = static_cast<size_t>((rows.end - rows.begin) * level.pitch) * sizeof(float);
    std::memset(out.u + rows.begin * level.pitch, 0, bytes);
    std::memset(out.v + rows.begin * level.pitch, 0, bytes);
  }
}

void solve_level(Member& m, int s) {
  FarnebackWork& w = m.work;
  const FarnebackLevel& level = w.level[s];
  build_images(m, level);
  w.team.barrier();  // the images are whole
  for (int k = 0; k < 2; ++k) expand(w.image[k], level, w.expansion, m.rows(level), m.scratch(), m.expanded(k));
  start_flow(m, s);
  m.turn ^= 1;
  for (int k = 0; k < w.iterations; ++k) {
    w.team.barrier();  // the expansions and the latest flow are whole
    const Fields fields(level, m.expanded(0), m.expanded(1), m.flow(m.turn, level));
    Sweep(fields, level, w.window, m.scratch()).run(m.rows(level), m.flow(m.turn ^ 1, level));
    m.turn ^= 1;
  }
  w.team.barrier();
}

}  // namespace

void farneback_solve(FarnebackWork& work, int rank) {
  Member member{work, rank};
  load_frames(member);
  work.team.barrier();
  for (int s = work.levels - 1; s >= 0; --s) solve_level(member, s);
  const FarnebackLevel& full = work.level[0];
  const Flow flow = member.flow(member.turn, full);
  const Rows rows = member.rows(full);
  const size_t bytes = static_cast<size_t>(full.width) * sizeof(float);
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    std::memcpy(work.flow + y * full.width, flow.u + y * full.pitch, bytes);
    std::memcpy(work.flow + (full.height + y) * full.width, flow.v + y * full.pitch, bytes);
  }
}

}  // namespace mer_fast::MER_ISA
