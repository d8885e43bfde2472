// What stands before and behind the blocks of conv_norm_pool: examples between zeros; norm, dropout and means of the windows.
#include "conv_norm_pool_kernel.h"

#include "lanes.h"

namespace mer_fast::MER_ISA {

namespace {

// --- examples ----------------------------------------------------------------------------------------------------------
template <typename Real>
void frame(const Framed<Real>& x, const Real* example, const Real* next, Real* to) {
  constexpr int64_t lanes = lanes_of<Real>, line = 64 / sizeof(Real);
  for (int64_t c = 0; c < x.channels; ++c) {
    Real* out = to + c * x.plane + x.border * (x.row + 1);
    for (int64_t h = 0; h < x.in_height; ++h, example += x.in_width, next += x.in_width, out += x.row) {
      for (int64_t w = 0; w < x.in_width; w += line) __builtin_prefetch(next + w, 0, 2);
      if (x.in_width < lanes) {
        for (int64_t w = 0; w < x.in_width; ++w) out[w] = example[w];
        continue;
      }
      for (int64_t w = 0; w + lanes <= x.in_width; w += lanes) vstore(out + w, vload(example + w));
      vstore(out + x.in_width - lanes, vload(example + x.in_width - lanes));  // overlaps the one before it
    }
  }
}

// --- windows -----------------------------------------------------------------------------------------------------------
// A number of 32 bits in as many as a Real has.
template <typename Real>
struct WordOf {
  typedef uint32_t Word;
};
template <>
struct WordOf<double> {
  typedef uint64_t Word;
};

// Decides for kGroup or fewer channels which of their elements stay.
template <typename Real>
class Stays {
 public:
  Stays(const Windows<Real>& w, int64_t channel) : dropout_(w.dropout), scale_(vsplat(static_cast<Real>(w.dropout.scale))) {
    for (int i = 0; i < lanes_of<Real>; ++i) first_[i] = static_cast<uint32_t>(w.first + (channel + i) * w.count());
  }
  // `value` of window k scaled, or 0.
  inline VecOf<Real> apply(VecOf<Real> value, int64_t k) const {
    // All bits are mixed twice, with the second half of the key in between.
    Words x = ((first_ + static_cast<Word>(k)) & kMask) ^ static_cast<uint32_t>(dropout_.key);
    x ^= x >> 16;
    x = (x * 0x7FEB352Du) & kMask;
    x ^= x >> 15;
    x = (x + static_cast<uint32_t>(dropout_.key >> 32)) & kMask;
    x = (x * 0x846CA68Bu) & kMask;
    x ^= x >> 16;
    return x >= static_cast<Word>(dropout_.threshold) ? value * scale_ : VecOf<Real>{};
  }

 private:
  typedef typename WordOf<Real>::Word Word;
  typedef Word Words __attribute__((vector_size(kVecBytes)));
  static constexpr Word kMask = 0xFFFFFFFFu;

  Dropout dropout_;
  VecOf<Real> scale_;
  Words first_;
};

// Calls each(window) for the windows of average (i, j).
template <typename Real, typename Each>
[[gnu::always_inline]] inline void for_windows(const Windows<Real>& w, int64_t i, int64_t j, const Each& each) {
  for (int64_t h = i * w.average; h < (i + 1) * w.average; ++h) {
    for (int64_t v = j * w.average; v < (j + 1) * w.average; ++v) each(h * w.pool.width + v);
  }
}

template <typename Real>
void close(const Windows<Real>& w, const Real* winners, const Real* scale_of, const Real* shift_of, Real* averages) {
  const VecOf<Real> share = vsplat(static_cast<Real>(1.0 / static_cast<double>(w.average * w.average)));
  for (int64_t c = 0; c < w.step; c += lanes_of<Real>) {
    const VecOf<Real> scale = vload(scale_of + c), shift = vload(shift_of + c);
    const Stays<Real> stays(w, c);
    Real* to = averages + c;
    for (int64_t i = 0; i < w.averages_high(); ++i) {
      for (int64_t j = 0; j < w.averages_wide(); ++j, to += w.step) {
        VecOf<Real> sum = {};
        for_windows(w, i, j, [&](int64_t k) {
          const VecOf<Real> normed = vload(winners + k * w.step + c) * scale + shift;
          sum += w.dropout.on ? stays.apply(normed, k) : normed;
        });
        vstore(to, sum * share);
      }
    }
  }
}

template <typename Real>
void open(const Windows<Real>& w, const Real* average_grads, Real* grads) {
  const VecOf<Real> share = vsplat(static_cast<Real>(1.0 / static_cast<double>(w.average * w.average)));
  for (int64_t c = 0; c < w.step; c += lanes_of<Real>) {
    const Stays<Real> stays(w, c);
    if (w.averages() * w.average * w.average < w.count()) {  // some windows are in no average
      for (int64_t k = 0; k < w.count(); ++k) vstore(grads + k * w.step + c, VecOf<Real>{});
    }
    const Real* from = average_grads + c;
    for (int64_t i = 0; i < w.averages_high(); ++i) {
      for (int64_t j = 0; j < w.averages_wide(); ++j, from += w.step) {
        const VecOf<Real> grad = vload(from) * share;
        for_windows(w, i, j, [&](int64_t k) { vstore(grads + k * w.step + c, w.dropout.on ? stays.apply(grad, k) : grad); });
      }
    }
  }
}

template <typename Real>
void sums_of(const Windows<Real>& w, const Real* winners, const Real* grads, Real* sums, Real* products) {
  for (int64_t c = 0; c < w.step; c += lanes_of<Real>) {
    VecOf<Real> sum = vload(sums + c), product = vload(products + c);
    for (int64_t k = c; k < w.count() * w.step; k += w.step) {
      const VecOf<Real> grad = vload(grads + k);
      sum += grad;
      product += grad * vload(winners + k);
    }
    vstore(sums + c, sum);
    vstore(products + c, product);
  }
}

template <typename Real>
void scaled(const Windows<Real>& w, const Real* winners, const Real* least_of, const Real* scale_of, Real* grads) {
  for (int64_t c = 0; c < w.step; c += lanes_of<Real>) {
    const VecOf<Real> least = vload(least_of + c), scale = vload(scale_of + c);
    for (int64_t k = c; k < w.count() * w.step; k += w.step) {
      vstore(grads + k, unless_least<Real>(vload(winners + k), least, vload(grads + k) * scale));
    }
  }
}

}  // namespace

#define MER_FAST_DEFINE(Real)                                                                                                 \
  void frame_example(const Framed<Real>& x, const Real* example, const Real* next, Real* to) { frame(x, example, next, to); } \
  void close_windows(const Windows<Real>& w, const Real* winners, const Real* scale, const Real* shift, Real* averages) {     \
    close(w, winners, scale, shift, averages);                                                                                \
  }                                                                                                                           \
  void open_windows(const Windows<Real>& w, const Real* average_grads, Real* grads) { open(w, average_grads, grads); }        \
  void sum_windows(const Windows<Real>& w, const Real* winners, const Real* grads, Real* sums, Real* products) {              \
    sums_of(w, winners, grads, sums, products);                                                                               \
  }                                                                                                                           \
  void scale_windows(const Windows<Real>& w, const Real* winners, const Real* least, const Real* scale, Real* grads) {        \
    scaled(w, winners, least, scale, grads);                                                                                  \
  }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
