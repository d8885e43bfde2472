#include "optical_strain_kernel.h"

#include "simd.h"

// No row that a loop writes is one that it reads, which the compiler cannot see and must know to vectorise.
#if defined(__clang__)
#define MER_FAST_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define MER_FAST_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace mer_fast::MER_ISA {

namespace {

// A row of a tridiagonal operator: (before, here, after) times the three neighbours.
template <typename Real>
struct Taps {
  Real before, here, after;
};

template <typename Real>
Taps<Real> difference(Derivative kind, int64_t i, int64_t n) {
  const bool first = i == 0, last = i == n - 1;
  if (n == 1) return {0, 0, 0};
  if (kind == Derivative::forward) return last ? Taps<Real>{0, 0, 0} : Taps<Real>{0, -1, 1};
  const Real edge = kind == Derivative::central ? Real(1) : Real(0.5);  // one-sided | replicated border
  if (first) return {0, -edge, edge};
  if (last) return {-edge, edge, 0};
  return {Real(-0.5), 0, Real(0.5)};
}

template <typename Real>
Taps<Real> smoothing(Derivative kind, int64_t i, int64_t n) {
  if (kind != Derivative::sobel || n == 1) return {0, 1, 0};
  if (i == 0) return {0, Real(0.75), Real(0.25)};
  if (i == n - 1) return {Real(0.25), Real(0.75), 0};
  return {Real(0.25), Real(0.5), Real(0.25)};
}

// Row i of the transposed operator.
template <typename Real, typename Operator>
Taps<Real> transposed(Operator op, Derivative kind, int64_t i, int64_t n) {
  return {
      i > 0 ? op(kind, i - 1, n).after : Real(0), op(kind, i, n).here, i < n - 1 ? op(kind, i + 1, n).before : Real(0)};
}

// A tap of zero reads nothing, so that a NaN or an infinity stays where a derivative really touches it.
template <typename Real>
Real term(Real tap, Real value) {
  return tap != 0 ? tap * value : Real(0);
}

// out[x] = before * row[y - 1][x] + here * row[y][x] + after * row[y + 1][x].
template <typename Real>
void combine_rows(const Real* plane, int64_t stride, int64_t y, Taps<Real> taps, int64_t width, Real* out) {
  const Real* here = plane + y * stride;
  const Real* before = taps.before != 0 ? here - stride : here;
  const Real* after = taps.after != 0 ? here + stride : here;
  MER_FAST_INDEPENDENT
  for (int64_t x = 0; x < width; ++x) {
    out[x] = term(taps.before, before[x]) + term(taps.here, here[x]) + term(taps.after, after[x]);
  }
}

template <typename Real>
Real combine_columns(const Real* row, int64_t x, int64_t width, Taps<Real> taps) {
  return term(taps.before, row[x > 0 ? x - 1 : 0]) + term(taps.here, row[x]) + term(taps.after, row[x < width - 1 ? x + 1 : x]);
}

// Calls pixel(x, difference taps, smoothing taps): constant taps in the middle, so that the loop there is vectorised.
template <typename Real, bool Transposed, typename Pixel>
void along_row(Derivative kind, int64_t width, Pixel pixel) {
  const auto taps_at = [&](int64_t x, auto op) {
    return Transposed ? transposed<Real>(op, kind, x, width) : op(kind, x, width);
  };
  const auto general = [&](int64_t x) { pixel(x, taps_at(x, difference<Real>), taps_at(x, smoothing<Real>)); };
  if (width < 6) {
    for (int64_t x = 0; x < width; ++x) general(x);
    return;
  }
  general(0);
  general(1);
  const Taps<Real> diff = taps_at(2, difference<Real>), smooth = taps_at(2, smoothing<Real>);
  MER_FAST_INDEPENDENT
  for (int64_t x = 2; x < width - 2; ++x) pixel(x, diff, smooth);
  general(width - 2);
  general(width - 1);
}

// The four derivatives of row y: gives pixel(x, u_x, v_y, u_y + v_x). `rows` holds 4 * width scratch values.
template <typename Real, typename Pixel>
void strain_row(const StrainBand<Real>& band, int64_t y, Real* rows, Pixel pixel) {
  const int64_t width = band.width;
  Real *smooth_u = rows, *smooth_v = rows + width, *diff_u = rows + 2 * width, *diff_v = rows + 3 * width;
  const Taps<Real> diff = difference<Real>(band.derivative, y, band.height);
  const Taps<Real> smooth = smoothing<Real>(band.derivative, y, band.height);
  combine_rows(band.u, width, y, smooth, width, smooth_u);
  combine_rows(band.v, width, y, smooth, width, smooth_v);
  combine_rows(band.u, width, y, diff, width, diff_u);
  combine_rows(band.v, width, y, diff, width, diff_v);
  along_row<Real, false>(band.derivative, width, [&](int64_t x, Taps<Real> d, Taps<Real> s) {
    pixel(
        x, combine_columns(smooth_u, x, width, d), combine_columns(diff_v, x, width, s),
        combine_columns(diff_u, x, width, s) + combine_columns(smooth_v, x, width, d));
  });
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

template <typename Real>
void forward(const StrainBand<Real>& band, Real* strain, Real* scratch) {
  for (int64_t y = band.begin; y < band.end; ++y) {
    Real* out = strain + y * band.width;
    strain_row(band, y, scratch, [&](int64_t x, Real ux, Real vy, Real shear) {
      out[x] = root(ux * ux + vy * vy + band.shear * shear * shear);
    });
  }
}

// The gradient with respect to u_x, v_y and the shear of three consecutive rows is kept in a ring of rows, from which
// the transposed stencils gather. Gathering, not scattering: no two threads ever write one element.
template <typename Real>
void backward(const StrainBand<Real>& band, const Real* grad, Real* grad_u, Real* grad_v, Real* scratch) {
  const int64_t width = band.width;
  Real* const ring = scratch + 4 * width;
  const auto slot = [&](int64_t y, int field) { return ring + ((y % 3) * 3 + field) * width; };
  const auto fill = [&](int64_t y) {
    Real *on_ux = slot(y, 0), *on_vy = slot(y, 1), *on_shear = slot(y, 2);
    const Real* g = grad + y * width;
    strain_row(band, y, scratch, [&](int64_t x, Real ux, Real vy, Real shear) {
      on_ux[x] = ux;
      on_vy[x] = vy;
      on_shear[x] = shear;
    });
    MER_FAST_INDEPENDENT
    for (int64_t x = 0; x < width; ++x) {
      const Real ux = on_ux[x], vy = on_vy[x], shear = on_shear[x];
      const Real strain = root(ux * ux + vy * vy + band.shear * shear * shear);
      const Real scale = strain != 0 ? g[x] / strain : Real(0);
      on_ux[x] = scale * ux;
      on_vy[x] = scale * vy;
      on_shear[x] = scale * band.shear * shear;
    }
  };
  Real *smooth_ux = scratch, *diff_shear = scratch + width, *smooth_shear = scratch + 2 * width, *diff_vy = scratch + 3 * width;
  const auto combine = [&](int64_t y, int field, Taps<Real> taps, Real* out) {
    const Real* here = slot(y, field);
    const Real* before = taps.before != 0 ? slot(y - 1, field) : here;
    const Real* after = taps.after != 0 ? slot(y + 1, field) : here;
    MER_FAST_INDEPENDENT
  for (int64_t x = 0; x < width; ++x) {
    out[x] = term(taps.before, before[x]) + term(taps.here, here[x]) + term(taps.after, after[x]);
    }
  };
  if (band.begin > 0) fill(band.begin - 1);
  fill(band.begin);
  for (int64_t y = band.begin; y < band.end; ++y) {
    if (y + 1 < band.height) fill(y + 1);
    const Taps<Real> diff = transposed<Real>(difference<Real>, band.derivative, y, band.height);
    const Taps<Real> smooth = transposed<Real>(smoothing<Real>, band.derivative, y, band.height);
    combine(y, 0, smooth, smooth_ux);
    combine(y, 2, diff, diff_shear);
    combine(y, 2, smooth, smooth_shear);
    combine(y, 1, diff, diff_vy);
    Real *out_u = grad_u + y * width, *out_v = grad_v + y * width;
    along_row<Real, true>(band.derivative, width, [&](int64_t x, Taps<Real> d, Taps<Real> s) {
      out_u[x] = combine_columns(smooth_ux, x, width, d) + combine_columns(diff_shear, x, width, s);
      out_v[x] = combine_columns(smooth_shear, x, width, d) + combine_columns(diff_vy, x, width, s);
    });
  }
}

}  // namespace

void strain_forward(const StrainBand<float>& band, float* strain, float* scratch) { forward(band, strain, scratch); }
void strain_forward(const StrainBand<double>& band, double* strain, double* scratch) { forward(band, strain, scratch); }

void strain_backward(const StrainBand<float>& band, const float* grad, float* grad_u, float* grad_v, float* scratch) {
  backward(band, grad, grad_u, grad_v, scratch);
}
void strain_backward(const StrainBand<double>& band, const double* grad, double* grad_u, double* grad_v, double* scratch) {
  backward(band, grad, grad_u, grad_v, scratch);
}

}  // namespace mer_fast::MER_ISA
