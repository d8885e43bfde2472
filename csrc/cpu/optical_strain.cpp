// torch.ops.mer_fast.optical_strain and its gradient on a CPU: bands of rows in parallel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "optical_strain_kernel.h"
#include "tensor_io.h"

namespace mer_fast {
namespace {

constexpr int64_t kBandRows = 32;

Derivative derivative_of(const std::string& name) {
  if (name == "central") return Derivative::central;
  if (name == "forward") return Derivative::forward;
  MER_FAST_CHECK(
      name == "sobel", "optical_strain: derivative must be \"central\", \"forward\" or \"sobel\", got \"", name, "\"");
  return Derivative::sobel;
}

void check_flow(const Tensor& flow) {
  check_rank("optical_strain", "flow", flow, 4);
  MER_FAST_CHECK(flow.size(1) == 2, "optical_strain: flow must have 2 channels (u, v), got shape ", shape_text(flow));
  MER_FAST_CHECK(is_float(flow.scalar_type()), "optical_strain: flow must be a float tensor; convert it with .to(torch.float32)");
}

// A plane of which a band's rows are needed as Real: the tensor's own memory, or a widened copy of those rows.
template <typename Real>
class Rows {
 public:
  Rows(Element type, int64_t width) : type_(type), width_(width) {}

  // Pointer to row 0 (only rows [begin, end) may be read).
  const Real* read(const char* plane, int64_t begin, int64_t end) {
    if constexpr (sizeof(Real) == 4) {
      if (type_ != Element::f32) {
        buffer_.resize(static_cast<size_t>((end - begin) * width_));
        MER_FAST_DISPATCH(widen, type_, plane + begin * width_ * element_size(type_), buffer_.data(), (end - begin) * width_);
        return buffer_.data() - begin * width_;
      }
    }
    return reinterpret_cast<const Real*>(plane);
  }

  Real* write(char* plane, int64_t begin, int64_t end) {
    if constexpr (sizeof(Real) == 4) {
      if (type_ != Element::f32) {
        buffer_.resize(static_cast<size_t>((end - begin) * width_));
        return buffer_.data() - begin * width_;
      }
    }
    return reinterpret_cast<Real*>(plane);
  }

  void flush(char* plane, int64_t begin, int64_t end) {
    if constexpr (sizeof(Real) == 4) {
      if (type_ != Element::f32) {
        MER_FAST_DISPATCH(narrow, type_, buffer_.data(), plane + begin * width_ * element_size(type_), (end - begin) * width_);
      }
    }
  }

 private:
  Element type_;
  int64_t width_;
  std::vector<Real> buffer_;
};

// Calls work(image, first row, last row) for every band, in parallel.
template <typename Work>
void for_each_band(int64_t images, int64_t height, const Work& work) {
  const int64_t bands = (height + kBandRows - 1) / kBandRows;
  torch::stable::parallel_for(0, images * bands, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const int64_t begin = k % bands * kBandRows;
      work(k / bands, begin, std::min(begin + kBandRows, height));
    }
  });
}

template <typename Real>
void forward(Element type, const char* flow, char* strain, int64_t images, StrainBand<Real> shape) {
  const int64_t plane = shape.height * shape.width * element_size(type);
  for_each_band(images, shape.height, [&](int64_t image, int64_t begin, int64_t end) {
    Rows<Real> u(type, shape.width), v(type, shape.width), out(type, shape.width);
    std::vector<Real> scratch(static_cast<size_t>(strain_scratch(shape.width)));
    const int64_t low = std::max<int64_t>(begin - kStrainHalo, 0), high = std::min(end + kStrainHalo, shape.height);
    StrainBand<Real> band = shape;
    band.begin = begin;
    band.end = end;
    band.u = u.read(flow + 2 * image * plane, low, high);
    band.v = v.read(flow + (2 * image + 1) * plane, low, high);
    MER_FAST_DISPATCH(strain_forward, band, out.write(strain + image * plane, begin, end), scratch.data());
    out.flush(strain + image * plane, begin, end);
  });
}

template <typename Real>
void backward(Element type, const char* grad, const char* flow, char* grad_flow, int64_t images, StrainBand<Real> shape) {
  const int64_t plane = shape.height * shape.width * element_size(type);
  for_each_band(images, shape.height, [&](int64_t image, int64_t begin, int64_t end) {
    Rows<Real> u(type, shape.width), v(type, shape.width), g(type, shape.width), out_u(type, shape.width), out_v(type, shape.width);
    std::vector<Real> scratch(static_cast<size_t>(strain_scratch(shape.width)));
    const int64_t low = std::max<int64_t>(begin - kStrainHalo, 0), high = std::min(end + kStrainHalo, shape.height);
    char *target_u = grad_flow + 2 * image * plane, *target_v = target_u + plane;
    StrainBand<Real> band = shape;
    band.begin = begin;
    band.end = end;
    band.u = u.read(flow + 2 * image * plane, low, high);
    band.v = v.read(flow + (2 * image + 1) * plane, low, high);
    MER_FAST_DISPATCH(
        strain_backward, band, g.read(grad + image * plane, low, high), out_u.write(target_u, begin, end),
        out_v.write(target_v, begin, end), scratch.data());
    out_u.flush(target_u, begin, end);
    out_v.flush(target_v, begin, end);
  });
}

Tensor optical_strain(const Tensor& flow_any, const std::string& derivative, double shear) {
  check_flow(flow_any);
  const Derivative kind = derivative_of(derivative);
  const Tensor flow = contiguous(flow_any);
  const Element type = element_of("optical_strain", "flow", flow);
  const int64_t images = flow.size(0), height = flow.size(2), width = flow.size(3);
  Tensor strain = torch::stable::new_empty(flow, {images, 1, height, width});
  if (images * height * width == 0) return strain;
  const char* source = static_cast<const char*>(flow.const_data_ptr());
  char* target = static_cast<char*>(strain.mutable_data_ptr());
  if (type == Element::f64) {
    forward<double>(type, source, target, images, {nullptr, nullptr, height, width, 0, 0, kind, shear});
  } else {
    forward<float>(type, source, target, images, {nullptr, nullptr, height, width, 0, 0, kind, static_cast<float>(shear)});
  }
  return strain;
}

Tensor optical_strain_backward(const Tensor& grad_any, const Tensor& flow_any, const std::string& derivative, double shear) {
  check_flow(flow_any);
  check_same_dtype("optical_strain_backward", "grad", grad_any, "flow", flow_any);
  const Derivative kind = derivative_of(derivative);
  const Tensor flow = contiguous(flow_any), grad = contiguous(grad_any);
  const Element type = element_of("optical_strain", "flow", flow);
  const int64_t images = flow.size(0), height = flow.size(2), width = flow.size(3);
  MER_FAST_CHECK(
      grad.dim() == 4 && grad.size(0) == images && grad.size(1) == 1 && grad.size(2) == height && grad.size(3) == width,
      "optical_strain_backward: grad must have shape (N, 1, H, W) for the flow's (N, 2, H, W), got ", shape_text(grad));
  Tensor grad_flow = torch::stable::new_empty(flow, {images, 2, height, width});
  if (images * height * width == 0) return grad_flow;
  const char* g = static_cast<const char*>(grad.const_data_ptr());
  const char* source = static_cast<const char*>(flow.const_data_ptr());
  char* target = static_cast<char*>(grad_flow.mutable_data_ptr());
  if (type == Element::f64) {
    backward<double>(type, g, source, target, images, {nullptr, nullptr, height, width, 0, 0, kind, shear});
  } else {
    backward<float>(type, g, source, target, images, {nullptr, nullptr, height, width, 0, 0, kind, static_cast<float>(shear)});
  }
  return grad_flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("optical_strain", TORCH_BOX(&mer_fast::optical_strain));
  m.impl("optical_strain_backward", TORCH_BOX(&mer_fast::optical_strain_backward));
}
