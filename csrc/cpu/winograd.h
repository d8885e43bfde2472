// Winograd's transforms F(m, r) in one dimension, m outputs of a kernel of r from m + r - 1 points; in two dimensions they are
// applied to rows and columns one after the other (Lavin and Gray, CVPR 2016).
#pragma once

#include "vec.h"

namespace mer_fast::MER_ISA {

template <int M>
struct Winograd;

template <>
struct Winograd<3> {  // points 0, 1, -1, 2 and infinity
  template <typename T>
  static inline void input(const T* d, T* o) {
    o[0] = 2 * (d[0] - d[2]) - d[1] + d[3];
    o[1] = d[3] - d[2] - 2 * d[1];
    o[2] = d[3] + 2 * d[1] - 3 * d[2];
    o[3] = d[3] - d[1];
    o[4] = d[4] - d[2] - 2 * (d[3] - d[1]);
  }
  template <typename T>
  static inline void weight(const T* g, T* o) {
    o[0] = g[0] / 2;
    o[1] = -(g[0] + g[1] + g[2]) / 2;
    o[2] = (g[1] - g[0] - g[2]) / 6;
    o[3] = (g[0] + 2 * g[1] + 4 * g[2]) / 6;
    o[4] = g[2];
  }
  template <typename T>
  static inline void output(const T* m, T* y) {
    const T sum = m[1] + m[2];
    y[0] = m[0] + sum + m[3];
    y[1] = m[1] - m[2] + 2 * m[3];
    y[2] = sum + 4 * m[3] + m[4];
  }
};

template <>
struct Winograd<4> {  // points 0, 1, -1, 2, -2 and infinity
  template <typename T>
  static inline void input(const T* d, T* o) {
    const T a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    o[0] = 4 * d[0] - 5 * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = 4 * d[1] - 5 * d[3] + d[5];
  }
  template <typename T>
  static inline void weight(const T* g, T* o) {
    const T ends = g[0] + g[2], far = g[0] + 4 * g[2];
    o[0] = g[0] / 4;
    o[1] = -(ends + g[1]) / 6;
    o[2] = (g[1] - ends) / 6;
    o[3] = (far + 2 * g[1]) / 24;
    o[4] = (far - 2 * g[1]) / 24;
    o[5] = g[2];
  }
  template <typename T>
  static inline void output(const T* m, T* y) {
    const T a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * d;
    y[2] = a + 4 * c;
    y[3] = b + 8 * d + m[5];
  }
  template <typename T>
  static inline void gradient(const T* y, T* m) {  // what reaches the points, from the gradients of the outputs
    const T even = y[0] + y[2], odd = y[1] + y[3], far_even = y[0] + 4 * y[2], far_odd = 2 * y[1] + 8 * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = far_even + far_odd;
    m[4] = far_even - far_odd;
    m[5] = y[3];
  }
  template <typename T>
  static inline void weight_gradient(const T* m, T* g) {  // from the points to the kernel
    const T near = (m[1] + m[2]) / 6, far = (m[3] + m[4]) / 24, turned = (m[2] - m[1]) / 6, far_turned = (m[3] - m[4]) / 12;
    g[0] = m[0] / 4 - near + far;
    g[1] = turned + far_turned;
    g[2] = 4 * far - near + m[5];
  }
};

template <>
struct Winograd<2> : Winograd<4> {  // the same points, so the same input transform, for kernels of 5
  template <typename T>
  static inline void weight(const T* g, T* o) {
    const T even = g[0] + g[2] + g[4], odd = g[1] + g[3];
    const T far_even = g[0] + 4 * g[2] + 16 * g[4], far_odd = 2 * g[1] + 8 * g[3];
    o[0] = g[0] / 4;
    o[1] = -(even + odd) / 6;
    o[2] = (odd - even) / 6;
    o[3] = (far_even + far_odd) / 24;
    o[4] = (far_even - far_odd) / 24;
    o[5] = g[4];
  }
  template <typename T>
  static inline void output(const T* m, T* y) {
    y[0] = m[0] + (m[1] + m[2]) + (m[3] + m[4]);
    y[1] = (m[1] - m[2]) + 2 * (m[3] - m[4]) + m[5];
  }
  template <typename T>
  static inline void gradient(const T* y, T* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[0] + 2 * y[1];
    m[4] = y[0] - 2 * y[1];
    m[5] = y[1];
  }
  template <typename T>
  static inline void weight_gradient(const T* m, T* g) {
    const T near = (m[1] + m[2]) / 6, far = (m[3] + m[4]) / 24, turned = (m[2] - m[1]) / 6, far_turned = (m[3] - m[4]) / 12;
    g[0] = m[0] / 4 - near + far;
    g[1] = turned + far_turned;
    g[2] = 4 * far - near;
    g[3] = turned + 4 * far_turned;
    g[4] = 16 * far - near + m[5];
  }
};

}  // namespace mer_fast::MER_ISA
