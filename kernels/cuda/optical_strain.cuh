// Optical strain sqrt(u_x^2 + v_y^2 + shear (u_y + v_x)^2) of a flow field, and its gradient in gather form: each
// element is written by one thread, so the result is the same run to run.
//
// A thread owns one column of a band of kStrainRows rows and walks down it with the rows around it in registers.
// Floor: forward 3 elements a pixel (u, v in, strain out), backward 5 (u, v, gradient in, two out), everything moved
// once; the 2 or 4 rows that a band shares with its neighbours should come from the caches. A pixel takes some 60
// instructions forward and 140 backward (sobel 210: fields beside the thread's column are computed anew, which costs less
// than writing them down). Where a GPU issues 7 of them in the time of a byte, float should run near the copy bandwidth
// forward and at 0.6 to 0.9 of it backward; half and bfloat16, with half the bytes, at about half of it.
#pragma once

#include "element.cuh"

namespace mer_fast {

enum class Derivative { central, forward, sobel };

struct StrainShape {  // flow (images, 2, height, width), strain (images, 1, height, width)
  Index images;
  int height, width;
};

constexpr int kStrainThreads = 128;
constexpr int kStrainRows = 8;

__host__ __device__ constexpr Index strain_bands(const StrainShape& shape) { return divide_up(shape.height, kStrainRows); }

__host__ __device__ constexpr Index strain_blocks(const StrainShape& shape) {
  return divide_up(shape.images * strain_bands(shape) * shape.width, kStrainThreads);
}

// --- the stencils along one axis: a derivative is slope * difference --------------------------------------------------

template <Derivative kKind, typename Real>
__device__ __forceinline__ Real slope(int i, int n) {
  const bool first = i == 0, last = i == n - 1;
  if (kKind == Derivative::forward) return last ? 0 : 1;
  if (first && last) return 0;
  return kKind == Derivative::central && (first || last) ? Real(1) : Real(0.5);
}

// From three neighbours; one outside is replaced by the border's. No tap of zero is multiplied, so that NaN reaches only
// the pixels whose derivative touches it.
template <Derivative kKind, typename Real>
__device__ __forceinline__ Real derivative(Real before, Real here, Real after, Real slope) {
  const Real step = kKind == Derivative::forward ? after - here : slope * (after - before);
  return slope != 0 ? step : Real(0);
}

template <Derivative kKind, typename Real>
__device__ __forceinline__ Real smooth(Real before, Real here, Real after) {
  return kKind == Derivative::sobel ? Real(0.25) * (before + after) + Real(0.5) * here : here;
}

// The transposed derivative at i as weights of what stands at i - 1, i and i + 1; a weight outside is 0.
template <typename Real>
struct Taps {
  Real before, here, after;
};

template <Derivative kKind, typename Real>
__device__ __forceinline__ Taps<Real> transposed_taps(int i, int n) {
  const bool first = i == 0, last = i == n - 1;
  const Real before = first ? Real(0) : slope<kKind, Real>(i - 1, n), here = slope<kKind, Real>(i, n);
  if (kKind == Derivative::forward) return {before, -here, 0};
  return {before, (last ? here : Real(0)) - (first ? here : Real(0)), last ? Real(0) : -slope<kKind, Real>(i + 1, n)};
}

template <Derivative kKind, typename Real>
__device__ __forceinline__ Real derivative_transposed(Real before, Real here, Real after, const Taps<Real>& taps) {
  const Real sum = (taps.before != 0 ? taps.before * before : Real(0)) + (taps.here != 0 ? taps.here * here : Real(0));
  return kKind == Derivative::forward ? sum : sum + (taps.after != 0 ? taps.after * after : Real(0));
}

// `smooth` is its own transpose.
template <Derivative kKind, typename Real>
__device__ __forceinline__ Real smooth_transposed(Real before, Real here, Real after, bool first, bool last) {
  return smooth<kKind>(first ? here : before, here, last ? here : after);
}

// --- reading ----------------------------------------------------------------------------------------------------------

// Which band and column a thread has: consecutive threads have consecutive columns.
struct Strip {
  Index image;
  int begin, x;
  bool outside;

  __device__ __forceinline__ explicit Strip(const StrainShape& shape) {
    const Index k = static_cast<Index>(blockIdx.x) * kStrainThreads + threadIdx.x;
    const Index bands = strain_bands(shape), band = k / shape.width;
    x = static_cast<int>(k - band * shape.width);
    image = band / bands;
    begin = static_cast<int>(band - image * bands) * kStrainRows;
    outside = image >= shape.images;
  }
};

// Pixels x - kReach .. x + kReach of a row, of which `here` is x; one outside is replaced by the border's.
template <int kReach, typename Element>
__device__ __forceinline__ void read_around(const Element* here, int x, int width, Compute<Element>* values) {
  values[kReach] = widen(*here);
#pragma unroll
  for (int d = 1; d <= kReach; ++d) {
    values[kReach - d] = x >= d ? widen(here[-d]) : values[kReach - d + 1];
    values[kReach + d] = x < width - d ? widen(here[d]) : values[kReach + d - 1];
  }
}

// The thread's column and, with kColumns 3, both beside it: three rows of u and v around row y, each already taken
// through the stencils along x. Rows outside the image are replaced by its border's.
template <Derivative kKind, typename Element, int kColumns>
struct FlowRows {
  using Real = Compute<Element>;
  static constexpr int kSide = kColumns / 2;

  struct Row {
    Real derivative[kColumns], smooth[kColumns];
  };

  const Element* u;  // row y + 1 at the thread's column; v lies one plane behind
  Index plane;
  int x, width, y, height;
  Real slopes[kColumns];
  Row u_before, u_here, u_after, v_before, v_here, v_after;

  __device__ __forceinline__ FlowRows(const Element* flow, const Strip& strip, int first, const StrainShape& shape)
      : plane(static_cast<Index>(shape.height) * shape.width), x(strip.x), width(shape.width), y(first), height(shape.height) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) slopes[c] = slope<kKind, Real>(x + c - kSide, width);
    u = flow + 2 * strip.image * plane + static_cast<Index>(y > 0 ? y - 1 : 0) * width + x;
    read(u_before, v_before);
    if (y > 0) u += width;
    read(u_here, v_here);
    if (y < height - 1) u += width;
    read(u_after, v_after);
  }

  __device__ __forceinline__ Row across(const Element* here) const {
    Real values[kColumns + 2];
    read_around<kSide + 1>(here, x, width, values);
    Row row;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      row.derivative[c] = derivative<kKind>(values[c], values[c + 1], values[c + 2], slopes[c]);
      row.smooth[c] = smooth<kKind>(values[c], values[c + 1], values[c + 2]);
    }
    return row;
  }

  __device__ __forceinline__ void read(Row& u_row, Row& v_row) const {
    u_row = across(u);
    v_row = across(u + plane);
  }

  __device__ __forceinline__ void advance() {
    ++y;
    u_before = u_here, u_here = u_after;
    v_before = v_here, v_here = v_after;
    if (y < height - 1) u += width;
    read(u_after, v_after);
  }

  // u_x, v_y and u_y + v_x at column c of row y.
  __device__ __forceinline__ void derivatives(int c, Real slope_y, Real& ux, Real& vy, Real& both) const {
    ux = smooth<kKind>(u_before.derivative[c], u_here.derivative[c], u_after.derivative[c]);
    vy = derivative<kKind>(v_before.smooth[c], v_here.smooth[c], v_after.smooth[c], slope_y);
    both = derivative<kKind>(u_before.smooth[c], u_here.smooth[c], u_after.smooth[c], slope_y) +
           smooth<kKind>(v_before.derivative[c], v_here.derivative[c], v_after.derivative[c]);
  }
};

// --- forward ----------------------------------------------------------------------------------------------------------

// The hardware's root and inverse root are within two bits of the last place, at a tenth of the exact ones' instructions.
#ifdef __CUDACC__
__device__ __forceinline__ float root(float x) {
  float value;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}
__device__ __forceinline__ float inverse_root(float x) {
  float value;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}
#else
inline float root(float x) { return sqrtf(x); }
inline float inverse_root(float x) { return rsqrtf(x); }
#endif
__device__ __forceinline__ double root(double x) { return sqrt(x); }
__device__ __forceinline__ double inverse_root(double x) { return rsqrt(x); }

template <typename Element, Derivative kKind>
__global__ void __launch_bounds__(kStrainThreads)
    optical_strain(const Element* __restrict__ flow, Element* __restrict__ strain, StrainShape shape, Compute<Element> shear) {
  using Real = Compute<Element>;
  const Strip strip(shape);
  if (strip.outside) return;
  FlowRows<kKind, Element, 1> rows(flow, strip, strip.begin, shape);
  Element* target = strain + strip.image * rows.plane + static_cast<Index>(strip.begin) * shape.width + strip.x;
#pragma unroll
  for (int r = 0; r < kStrainRows; ++r) {
    Real ux, vy, both;
    rows.derivatives(0, slope<kKind, Real>(rows.y, shape.height), ux, vy, both);
    *target = Narrow<Element>::from(root(ux * ux + vy * vy + shear * both * both));
    if (r == kStrainRows - 1 || rows.y == shape.height - 1) break;
    target += shape.width;
    rows.advance();
  }
}

// --- backward ---------------------------------------------------------------------------------------------------------

// A strain whose square is below the smallest normal number counts as 0, and so has gradient 0.
__device__ __forceinline__ bool is_zero(float square) { return square < 1.17549435e-38f; }
__device__ __forceinline__ bool is_zero(double square) { return square == 0; }

// What the strain of one row gives the gradient at the thread's column: the gradients with respect to u_x, v_y and the
// shear after the transposed stencils along x; those along y are to come.
template <typename Real>
struct Pulled {
  Real ux_derivative, shear_smooth;  // for u: by the transposed smooth and derivative along y
  Real shear_derivative, vy_smooth;  // for v
};

template <Derivative kKind, typename Element>
__device__ __forceinline__ Pulled<Compute<Element>> pull(
    const FlowRows<kKind, Element, 3>& rows, const Element* grad_here, const Taps<Compute<Element>>& taps,
    Compute<Element> shear) {
  using Real = Compute<Element>;
  Real grad[3], on_ux[3], on_vy[3], on_shear[3];
  read_around<1>(grad_here, rows.x, rows.width, grad);
  const Real slope_y = slope<kKind, Real>(rows.y, rows.height);
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    Real ux, vy, both;
    rows.derivatives(c, slope_y, ux, vy, both);
    const Real sheared = shear * both, square = ux * ux + vy * vy + sheared * both;
    const Real scale = is_zero(square) ? Real(0) : grad[c] * inverse_root(square);
    on_ux[c] = scale * ux;
    on_vy[c] = scale * vy;
    on_shear[c] = scale * sheared;
  }
  const bool first = rows.x == 0, last = rows.x == rows.width - 1;
  return {
      derivative_transposed<kKind>(on_ux[0], on_ux[1], on_ux[2], taps),
      smooth_transposed<kKind>(on_shear[0], on_shear[1], on_shear[2], first, last),
      derivative_transposed<kKind>(on_shear[0], on_shear[1], on_shear[2], taps),
      smooth_transposed<kKind>(on_vy[0], on_vy[1], on_vy[2], first, last)};
}

template <typename Element, Derivative kKind>
__global__ void __launch_bounds__(kStrainThreads)
    optical_strain_backward(const Element* __restrict__ grad, const Element* __restrict__ flow,
                            Element* __restrict__ grad_flow, StrainShape shape, Compute<Element> shear) {
  using Real = Compute<Element>;
  const Strip strip(shape);
  if (strip.outside) return;
  const int start = strip.begin > 0 ? strip.begin - 1 : 0;
  FlowRows<kKind, Element, 3> rows(flow, strip, start, shape);
  const Element* grad_here = grad + strip.image * rows.plane + static_cast<Index>(start) * shape.width + strip.x;
  Element* target = grad_flow + 2 * strip.image * rows.plane + static_cast<Index>(strip.begin) * shape.width + strip.x;
  const Taps<Real> taps = transposed_taps<kKind, Real>(strip.x, shape.width);

  Pulled<Real> before = {}, here = pull(rows, grad_here, taps, shear), after = {};
  if (strip.begin > 0) {
    rows.advance();
    grad_here += shape.width;
    before = here;
    here = pull(rows, grad_here, taps, shear);
  }
#pragma unroll
  for (int r = 0; r < kStrainRows; ++r) {
    const int y = strip.begin + r;
    const bool first = y == 0, last = y == shape.height - 1;
    if (!last) {
      rows.advance();
      grad_here += shape.width;
      after = pull(rows, grad_here, taps, shear);
    }
    const Taps<Real> down = transposed_taps<kKind, Real>(y, shape.height);
    target[0] = Narrow<Element>::from(
        smooth_transposed<kKind>(before.ux_derivative, here.ux_derivative, after.ux_derivative, first, last) +
        derivative_transposed<kKind>(before.shear_smooth, here.shear_smooth, after.shear_smooth, down));
    target[rows.plane] = Narrow<Element>::from(
        smooth_transposed<kKind>(before.shear_derivative, here.shear_derivative, after.shear_derivative, first, last) +
        derivative_transposed<kKind>(before.vy_smooth, here.vy_smooth, after.vy_smooth, down));
    if (last) break;
    target += shape.width;
    before = here, here = after;
  }
}

}  // namespace mer_fast
