#include "recurrent_conv2d_kernel.h"

#include "simd.h"

namespace mer_fast::MER_ISA {

namespace {

template <bool kBefore, bool kAfter>
bool states(const StateRows f) {
  Vec zeros{};
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    const Vec scale = load(f.scale + c), shift = load(f.shift + c);
    const float *in = f.z.data + c, *before = f.before.data + c, *after = f.after.data + c;
    float* out = f.out + c;
    for (int64_t i = 0; i < f.pixels; ++i) {
      Vec z = load(in + i * f.z.step);
      if (kBefore) z += load(before + i * f.before.step);
      zeros += z * 0.0f;
      Vec y = z * scale + shift;
      y = y < 0 ? Vec{} : y;  // NaN stays
      if (kAfter) y += load(after + i * f.after.step);
      store(out + i * f.out_step, y);
    }
  }
  bool finite = true;
  for (int i = 0; i < kLanes; ++i) finite &= zeros[i] == 0;
  return finite;
}

// The gradient behind ReLU, and z normalised.
inline void behind_relu(const NormRows& f, int64_t i, int64_t c, Vec* grad, Vec* normal) {
  const Vec z = load(f.z.data + i * f.z.step + c), y = z * load(f.scale + c) + load(f.shift + c);
  const Vec g = load(f.grad.data + i * f.grad.step + c);
  *grad = y <= 0 ? Vec{} : g;
  *normal = (z - load(f.mean + c)) * load(f.inverse + c);
}

}  // namespace

bool state_rows(const StateRows& f) {
  if (f.before.data) return f.after.data ? states<true, true>(f) : states<true, false>(f);
  return f.after.data ? states<false, true>(f) : states<false, false>(f);
}

void moment_rows(const MomentRows& f) {
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    const Vec pivot = load(f.pivot + c);
    Vec sum{}, squares{};
    for (int64_t i = 0; i < f.pixels; ++i) {
      Vec z = load(f.z.data + i * f.z.step + c);
      if (f.before.data) z += load(f.before.data + i * f.before.step + c);
      store(f.out + i * f.out_step + c, z);
      const Vec d = z - pivot;
      sum += d;
      squares += d * d;
    }
    store(f.sums + c, sum);
    store(f.squares + c, squares);
  }
}

void norm_sums(const NormRows& f, float* grads, float* products) {
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    Vec sum{}, product{};
    for (int64_t i = 0; i < f.pixels; ++i) {
      Vec g, normal;
      behind_relu(f, i, c, &g, &normal);
      sum += g;
      product += g * normal;
    }
    store(grads + c, sum);
    store(products + c, product);
  }
}

void norm_gradient(const NormRows& f, const float* mean_grad, const float* mean_product, float* out, int64_t out_step) {
  for (int64_t i = 0; i < f.pixels; ++i) {
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      Vec g, normal;
      behind_relu(f, i, c, &g, &normal);
      store(out + i * out_step + c, load(f.scale + c) * (g - load(mean_grad + c) - normal * load(mean_product + c)));
    }
  }
}

}  // namespace mer_fast::MER_ISA
