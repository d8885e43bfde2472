// torch.ops.mer_fast.tim on a CPU: the closed form of the temporal interpolation model as a matrix product over frames.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "tensor_io.h"
#include "tim_kernel.h"

namespace mer_fast {
namespace {

// Bytes a thread must have to work on. On less, a second thread saves little, and where its core is held by the spinning
// threads of another library, as NumPy's are for a while after every matrix product, waiting for it costs much more.
constexpr int64_t kWorthAThread = 32 << 20;
constexpr double kPi = 3.14159265358979323846;

// 1/2 + sum_{k=1}^{n-1} cos(k theta)
double dirichlet(double theta, int64_t n) {
  return theta == 0.0 ? n - 0.5 : std::sin((n - 0.5) * theta) / (2.0 * std::sin(0.5 * theta));
}

// Weight of input frame i (of n) in the output frame that stands at input position s, 0 <= s <= n - 1.
double tim_weight(int64_t i, double s, int64_t n) {
  return (dirichlet(kPi * (i - s) / n, n) + dirichlet(kPi * (i + s + 1.0) / n, n)) / n;
}

// (rows, cols): rows are the frames to write, cols the frames to read.
std::vector<double> make_weights(int64_t n, int64_t m, bool adjoint) {
  std::vector<double> weights(static_cast<size_t>(n * m));
  for (int64_t t = 0; t < m; ++t) {
    const double s = m == 1 ? 0.0 : static_cast<double>(t) * (n - 1) / (m - 1);
    for (int64_t i = 0; i < n; ++i) weights[adjoint ? i * m + t : t * n + i] = tim_weight(i, s, n);
  }
  return weights;
}

template <typename Real>
std::shared_ptr<const std::vector<Real>> weights_as(int64_t n, int64_t m, bool adjoint) {
  const std::vector<double> weights = make_weights(n, m, adjoint);
  return std::make_shared<const std::vector<Real>>(weights.begin(), weights.end());
}

// Kept for the next clip of that length; very long clips, whose weights would pile up, make theirs anew.
template <typename Real>
std::shared_ptr<const std::vector<Real>> cached_weights(int64_t n, int64_t m, bool adjoint) {
  if (n * m > (1 << 20)) return weights_as<Real>(n, m, adjoint);
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, bool>, std::shared_ptr<const std::vector<Real>>> cache;
  const std::lock_guard<std::mutex> lock(mutex);
  if (cache.size() > 64) cache.erase(cache.begin());
  auto& entry = cache[{n, m, adjoint}];
  if (!entry) entry = weights_as<Real>(n, m, adjoint);
  return entry;
}

struct Layout {
  int64_t outer, in, out, inner;
};

// Copies frame i of the flattened pixels [begin, begin + count) to `row`, which the kernel then reads.
template <typename Real>
void gather(Element type, const char* data, const Layout& s, int64_t i, int64_t begin, int64_t count, Real* row) {
  const int64_t size = element_size(type);
  for (int64_t done = 0; done < count;) {
    const int64_t o = (begin + done) / s.inner, j = (begin + done) % s.inner;
    const int64_t length = std::min(s.inner - j, count - done);
    const char* source = data + ((o * s.in + i) * s.inner + j) * size;
    if constexpr (sizeof(Real) == 8) {
      std::copy_n(reinterpret_cast<const double*>(source), length, row + done);
    } else {
      MER_FAST_DISPATCH(widen, type, source, row + done, length);
    }
    done += length;
  }
}

template <typename Real>
void scatter(Element type, char* data, const Layout& s, int64_t t, int64_t begin, int64_t count, const Real* row) {
  const int64_t size = element_size(type);
  for (int64_t done = 0; done < count;) {
    const int64_t o = (begin + done) / s.inner, j = (begin + done) % s.inner;
    const int64_t length = std::min(s.inner - j, count - done);
    char* target = data + ((o * s.out + t) * s.inner + j) * size;
    if constexpr (sizeof(Real) == 8) {
      std::copy_n(row + done, length, reinterpret_cast<double*>(target));
    } else {
      MER_FAST_DISPATCH(narrow, type, row + done, target, length);
    }
    done += length;
  }
}

template <typename Real>
void interpolate(Element type, const char* clip, char* out, const Layout& s, const Real* weights) {
  const int64_t pixels = s.outer * s.inner;
  // A run of every frame stays in the second-level cache; runs are long enough to stream.
  const int64_t run = std::clamp<int64_t>(65536 / (s.in + s.out) / kTimAlign * kTimAlign, kTimAlign, 1024);
  const bool direct_type = type == (sizeof(Real) == 8 ? Element::f64 : Element::f32);
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / (run * (s.in + s.out) * static_cast<int64_t>(sizeof(Real))));
  torch::stable::parallel_for(0, (pixels + run - 1) / run, grain, [&](int64_t first, int64_t last) {
    std::vector<Real> rows, results;
    for (int64_t k = first; k < last; ++k) {
      const int64_t begin = k * run, count = std::min(run, pixels - begin);
      const int64_t o = begin / s.inner, j = begin % s.inner;
      TimRun<Real> work{nullptr, s.inner, weights, nullptr, s.inner, s.in, s.out, count, k + 1 < last};
      if (direct_type && count % kTimAlign == 0 && j + count <= s.inner) {
        work.frames = reinterpret_cast<const Real*>(clip) + o * s.in * s.inner + j;
        work.out = reinterpret_cast<Real*>(out) + o * s.out * s.inner + j;
        MER_FAST_DISPATCH(tim_run, work);
        continue;
      }
      work.pixels = (count + kTimAlign - 1) / kTimAlign * kTimAlign;
      work.frame_stride = work.out_stride = work.pixels;
      work.prefetch = false;
      rows.resize(static_cast<size_t>(s.in * work.pixels));  // zero beyond `count`, or an earlier run's finite pixels
      results.resize(static_cast<size_t>(s.out * work.pixels));
      for (int64_t i = 0; i < s.in; ++i) gather(type, clip, s, i, begin, count, rows.data() + i * work.pixels);
      work.frames = rows.data();
      work.out = results.data();
      MER_FAST_DISPATCH(tim_run, work);
      for (int64_t t = 0; t < s.out; ++t) scatter(type, out, s, t, begin, count, results.data() + t * work.pixels);
    }
  });
}

Tensor tim(const Tensor& clip_any, int64_t num_frames, int64_t dim, bool adjoint) {
  MER_FAST_CHECK(dim >= 0 && dim < clip_any.dim(), "tim: dim ", dim, " is outside the clip's ", clip_any.dim(), " dimensions");
  MER_FAST_CHECK(num_frames >= 1, "tim: num_frames must be at least 1, got ", num_frames);
  const Tensor clip = contiguous(clip_any);
  const Element type = element_of("tim", "clip", clip);
  Layout s{1, clip.size(dim), num_frames, 1};
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < clip.dim(); ++d) {
    if (d < dim) s.outer *= clip.size(d);
    if (d > dim) s.inner *= clip.size(d);
    shape.push_back(d == dim ? num_frames : clip.size(d));
  }
  MER_FAST_CHECK(s.in >= 1, "tim: clip has no frame along dim ", dim);
  Tensor out = torch::stable::new_empty(clip, shape);
  if (s.outer * s.inner == 0) return out;
  const int64_t n = adjoint ? num_frames : s.in, m = adjoint ? s.in : num_frames;
  const char* source = static_cast<const char*>(clip.const_data_ptr());
  char* target = static_cast<char*>(out.mutable_data_ptr());
  if (type == Element::f64) {
    interpolate<double>(type, source, target, s, cached_weights<double>(n, m, adjoint)->data());
  } else {
    interpolate<float>(type, source, target, s, cached_weights<float>(n, m, adjoint)->data());
  }
  return out;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) { m.impl("tim", TORCH_BOX(&mer_fast::tim)); }
