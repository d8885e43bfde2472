#include "tvl1_flow_kernel.h"

#include "simd.h"
#include "tvl1_flow_median.h"
#include "tvl1_flow_pyramid.h"
#include "tvl1_flow_sweep.h"
#include "tvl1_flow_warp.h"

namespace mer_fast::MER_ISA {

namespace {

// What one member of the team knows while it solves one level.
struct Member {
  Tvl1Work& work;
  int rank;
  int turn = 0;  // of the exchange: neighbours may still read the other one

  int size() const { return work.team.size; }
  float* scratch() const { return work.scratch[rank]; }
};

// The rows of an image are split evenly; every member has at least a halo's worth (the host sees to it).
int64_t split_row(int64_t height, int rank, int size) { return height * rank / size; }

Band make_band(Member& m, const Tvl1Level& level) {
  Band band{};
  band.height = level.height;
  band.width = level.width;
  band.field = tvl1_field_width(level.width);
  band.stride = tvl1_row_stride(level.width);
  band.begin = split_row(level.height, m.rank, m.size());
  band.end = split_row(level.height, m.rank + 1, m.size());
  band.first = band.begin - kTvl1Halo > 0 ? band.begin - kTvl1Halo : 0;
  band.last = band.end + kTvl1Halo < level.height ? band.end + kTvl1Halo : level.height;
  band.base = m.work.band[m.rank] + band.stride;
  std::memset(m.work.band[m.rank], 0, static_cast<size_t>((band.last - band.first + 1) * band.stride) * sizeof(float));
  return band;
}

// Hands fields [from, to) of the member's outermost own rows to its neighbours and takes theirs into its halo.
void exchange(Member& m, const Band& band, Field from, Field to) {
  if (m.size() == 1) return;
  const int64_t length = (to - from) * band.field, slot = kTvl1Halo * 6 * band.field;
  const auto box = [&](int rank, int side) { return m.work.exchange[rank] + (2 * m.turn + side) * slot; };
  const size_t bytes = static_cast<size_t>(length) * sizeof(float);
  for (int i = 0; i < kTvl1Halo; ++i) {
    if (m.rank > 0) std::memcpy(box(m.rank, 0) + i * length, band.row(band.begin + i, from), bytes);
    if (m.rank + 1 < m.size()) std::memcpy(box(m.rank, 1) + i * length, band.row(band.end - kTvl1Halo + i, from), bytes);
  }
  m.work.team.barrier();
  for (int i = 0; i < kTvl1Halo; ++i) {
    if (m.rank > 0) std::memcpy(band.row(band.begin - kTvl1Halo + i, from), box(m.rank - 1, 1) + i * length, bytes);
    if (m.rank + 1 < m.size()) std::memcpy(band.row(band.end + i, from), box(m.rank + 1, 0) + i * length, bytes);
  }
  m.turn ^= 1;
}

// Sum over the whole image, in the order of its rows whatever the bands: every member, and every number of members,
// gets the same bits and so stops at the same iteration.
float total_error(const float* row_error, int64_t height) {
  Vec sum{};
  for (int64_t y = 0; y < height; ++y) sum += load(row_error + y * kTvl1MaxLanes);
  double total = 0.0;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return static_cast<float>(total);
}

// How many iterations may run before the next look at the error. The iteration that first meets the stop test must be
// seen, not run past: an overshoot of a few moves the flow of flat regions. The error falls ever more slowly, but its rate
// wavers, so that several run unseen only while it is far away, taken to fall no slower than by kFall a step.
struct Pace {
  static constexpr float kFall = 0.5f;
  float previous = 0.0f, rate = 0.0f;

  int next(float error, float threshold, int left) const {
    if (rate <= 0.0f) return 1;
    const float bound = rate < kFall ? rate : kFall;
    const float safe = __builtin_logf(threshold / error) / __builtin_logf(bound);
    const int count = safe >= kTvl1Halo ? kTvl1Halo : safe < 1.0f ? 1 : static_cast<int>(safe);
    return count < left ? count : left;
  }

  void seen(float error, int count) {
    if (previous > 0.0f && error > 0.0f) rate = __builtin_powf(error / previous, 1.0f / static_cast<float>(count));
    previous = error;
  }
};

void iterate(Member& m, Band& band) {
  const Tvl1Params& p = m.work.params;
  const float scale = p.tau / p.theta;
  const float pixels = static_cast<float>(band.height) * static_cast<float>(band.width);
  const float threshold = p.epsilon * p.epsilon * pixels * scale * scale;
  float error = __builtin_huge_valf();
  Pace pace;
  for (int outer = 0; outer < p.outer_iterations && error > threshold; ++outer) {
    if (p.median > 1) {
      median_filter(band, kU, p.median, m.scratch());
      median_filter(band, kV, p.median, m.scratch());
      exchange(m, band, kU, kP11);
      pace.previous = 0.0f;  // the filter moved the flow: the next error does not continue the last ones
    }
    for (int inner = 0; inner < p.inner_iterations && error > threshold;) {
      const int count = pace.next(error, threshold, p.inner_iterations - inner);
      float* row_error = m.work.row_error[m.turn];
      sweep(band, count, p.tau, row_error);
      if (m.size() == 1) m.turn ^= 1;
      exchange(m, band, kU, static_cast<Field>(kTvl1Fields));
      error = total_error(row_error, band.height);
      pace.seen(error, count);
      inner += count;
    }
  }
}

// The flow that a level starts from: none, the caller's, or the coarser level's, grown.
void start_flow(Member& m, Band& band, int s) {
  Tvl1Work& w = m.work;
  const Tvl1Level& level = w.level[s];
  const bool coarsest = s + 1 == w.levels;
  if (coarsest && !w.initial_flow) return;  // the band is zero
  const auto fill = [&](float* Tvl1Level::*plane, Field field) {
    if (coarsest) {
      for (int64_t y = band.first; y < band.last; ++y) {
        std::memcpy(band.row(y, field), level.*plane + y * level.width, static_cast<size_t>(level.width) * sizeof(float));
      }
      return;
    }
    const Tvl1Level& from = w.level[s + 1];
    const double scale_y = static_cast<double>(from.height) / static_cast<double>(level.height);
    const double scale_x = static_cast<double>(from.width) / static_cast<double>(level.width);
    const Resizer resizer(
        {from.*plane, from.height, from.width, from.width}, level.width, scale_y, scale_x, 1.0f / w.params.scale_step, m.scratch());
    for (int64_t y = band.first; y < band.last; ++y) resizer.row(y, band.row(y, field));
  };
  fill(&Tvl1Level::u, kU);
  fill(&Tvl1Level::v, kV);
}

void solve_level(Member& m, int s) {
  Tvl1Work& w = m.work;
  const Tvl1Level& level = w.level[s];
  const int64_t texture_rows = level.height + 2 * kTvl1TexturePad;
  build_texture(level, split_row(texture_rows, m.rank, m.size()), split_row(texture_rows, m.rank + 1, m.size()), w.texture);
  Band band = make_band(m, level);
  start_flow(m, band, s);
  w.team.barrier();  // the texture is whole
  for (int k = 0; k < w.params.warps; ++k) {
    warp(band, level, w.texture, w.params, m.scratch());
    iterate(m, band);
  }
  const float unscale = s == 0 ? w.params.theta / w.params.tau : 1.0f;
  float* out_u = s == 0 ? w.flow : level.u;
  float* out_v = s == 0 ? w.flow + level.height * level.width : level.v;
  for (int64_t y = band.begin; y < band.end; ++y) {
    const float *u = band.row(y, kU), *v = band.row(y, kV);
    for (int64_t x = 0; x < level.width; ++x) {
      out_u[y * level.width + x] = unscale * u[x];
      out_v[y * level.width + x] = unscale * v[x];
    }
  }
  w.team.barrier();  // the flow of the level is whole, and the texture no longer read
}

void build_pyramid(Member& m) {
  Tvl1Work& w = m.work;
  const int64_t pixels = w.level[0].height * w.level[0].width;
  const double step = static_cast<double>(w.params.scale_step);
  const auto image = [&](const Tvl1Frame& frame, float* Tvl1Level::*plane) {
    load_frame(frame, pixels, w.level[0].*plane);
    for (int s = 1; s < w.levels; ++s) shrink(w.level[s - 1], w.level[s], plane, step, 1.0f, m.scratch());
  };
  const auto flow = [&](float* Tvl1Level::*plane, const float* from) {
    const float scale = w.params.tau / w.params.theta;
    for (int64_t i = 0; i < pixels; ++i) (w.level[0].*plane)[i] = scale * from[i];
    for (int s = 1; s < w.levels; ++s) shrink(w.level[s - 1], w.level[s], plane, step, w.params.scale_step, m.scratch());
  };
  if (m.rank == 0) {
    image(w.frame0, &Tvl1Level::image0);
    if (w.initial_flow) flow(&Tvl1Level::u, w.initial_flow);
  }
  if (m.rank == 1 || m.size() == 1) {
    image(w.frame1, &Tvl1Level::image1);
    if (w.initial_flow) flow(&Tvl1Level::v, w.initial_flow + pixels);
  }
  w.team.barrier();
}

}  // namespace

void tvl1_solve(Tvl1Work& work, int rank) {
  Member member{work, rank};
  build_pyramid(member);
  for (int s = work.levels - 1; s >= 0; --s) solve_level(member, s);
}

}  // namespace mer_fast::MER_ISA
