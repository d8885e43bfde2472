#include "tim_kernel.h"

#include "simd.h"

namespace mer_fast::MER_ISA {

namespace {

constexpr int kBytes = kLanes * 4;
constexpr int kMaxTile = kLanes == 16 ? 10 : 5;  // output frames whose sums stay in registers
constexpr int kVectors = 2;                      // vectors of pixels each

template <typename Real>
struct Wide {
  typedef Real type __attribute__((vector_size(kBytes)));
};

// Asks for the next run while this one is worked on. The kernel reads across the frames, many short streams that the
// hardware does not prefetch; asked for frame by frame, the next run is one that it does.
template <typename Real>
class Ahead {
 public:
  static constexpr int64_t kLine = 64 / sizeof(Real);

  explicit Ahead(const TimRun<Real>& run) : run_(run), at_(run.frames + run.pixels), end_(at_ + run.pixels) {}

  void line() {
    __builtin_prefetch(at_, 0, 2);
    at_ += kLine;
    if (at_ >= end_) {
      end_ += run_.frame_stride;
      at_ = end_ - run_.pixels;
    }
  }

 private:
  const TimRun<Real>& run_;
  const Real *at_, *end_;
};

// Sums for `Tile` output frames from `first` on stay in registers while the input frames pass by.
template <typename Real, int Tile, bool Fetch>
void accumulate(const TimRun<Real>& run, int64_t first) {
  using V = typename Wide<Real>::type;
  constexpr int64_t lanes = sizeof(V) / sizeof(Real);
  const Real* weights = run.weights + first * run.num_in;
  Ahead<Real> ahead(run);
  for (int64_t x = 0; x < run.pixels; x += kVectors * lanes) {
    V sum[Tile][kVectors] = {};
    for (int64_t i = 0; i < run.num_in; ++i) {
      const Real* source = run.frames + i * run.frame_stride + x;
      V pixel[kVectors];
      for (int v = 0; v < kVectors; ++v) std::memcpy(&pixel[v], source + v * lanes, sizeof(V));
      if constexpr (Fetch) {
        for (int64_t read = 0; read < kVectors * kBytes; read += 64) ahead.line();
      }
      for (int t = 0; t < Tile; ++t) {
        const Real weight = weights[t * run.num_in + i];
        for (int v = 0; v < kVectors; ++v) sum[t][v] += weight * pixel[v];
      }
    }
    for (int t = 0; t < Tile; ++t) {
      Real* target = run.out + (first + t) * run.out_stride + x;
      for (int v = 0; v < kVectors; ++v) std::memcpy(target + v * lanes, &sum[t][v], sizeof(V));
    }
  }
}

template <typename Real, int Tile>
void accumulate_tile(const TimRun<Real>& run, int64_t first, int64_t tile) {
  if (tile == Tile) {
    if (run.prefetch && first == 0) {
      accumulate<Real, Tile, true>(run, first);
    } else {
      accumulate<Real, Tile, false>(run, first);
    }
  } else if constexpr (Tile > 1) {
    accumulate_tile<Real, Tile - 1>(run, first, tile);
  }
}

template <typename Real>
void run_tiles(const TimRun<Real>& run) {
  const int64_t tiles = (run.num_out + kMaxTile - 1) / kMaxTile;
  for (int64_t k = 0; k < tiles; ++k) {
    const int64_t first = run.num_out * k / tiles;
    accumulate_tile<Real, kMaxTile>(run, first, run.num_out * (k + 1) / tiles - first);
  }
}

}  // namespace

void tim_run(const TimRun<float>& run) { run_tiles(run); }
void tim_run(const TimRun<double>& run) { run_tiles(run); }

}  // namespace mer_fast::MER_ISA
