// Packs a piece of one image and group, with zeros for the padding: [channel][t][h][phase][w / phases].
#pragma once

#include <algorithm>
#include <vector>

#include "conv3d_kernel.h"
#include "conv3d_shape.h"

namespace mer_fast {

struct PackedShape {
  int64_t channels, frames, rows, phases, width;  // width of one phase
  const Triple* image = nullptr;                  // the input's own sides, where it is read in place

  int64_t row() const { return image ? (*image)[2] : phases * width; }
  // A frame's step must not be a multiple of a cache way, or its taps in time would evict each other.
  int64_t frame() const {
    const int64_t size = (image ? (*image)[1] : rows) * row();
    return size + (!image && size % 512 == 0 ? 16 : 0);
  }
  int64_t channel() const { return (image ? (*image)[0] : frames) * frame(); }
  int64_t size() const { return image ? 0 : channels * channel() + 64; }  // vectors may be read past the end
};

// The first tap of output position (t, h) = first stands at input (t, h) * stride - padding.
template <typename Real>
class Packer {
 public:
  Packer(const ConvShape& conv, Element type, const void* input) : conv_(conv), type_(type), input_(static_cast<const char*>(input)) {}

  void pack(int64_t image, int64_t group, int64_t first_t, int64_t first_h, const PackedShape& shape, Real* out) {
    const int64_t from_h = first_h * conv_.stride[1] - conv_.padding[1];
    const int64_t top = std::clamp<int64_t>(-from_h, 0, shape.rows);  // rows of zeros above and below the image
    const int64_t end = std::clamp<int64_t>(conv_.in[1] - from_h, top, shape.rows);
    const int64_t padding = std::min(conv_.padding[2], shape.row());
    line_.assign(static_cast<size_t>(shape.row() + 64), Real(0));
    PackRows<Real> rows{nullptr, end - top, std::min(conv_.in[2], shape.row() - padding), conv_.in[2], padding, 0, shape.phases,
                        shape.width, line_.data(), nullptr};
    // What is read past a row's end is used only by Winograd, in tiles that reach past the image.
    const bool in_place = shape.phases == conv_.stride[2] && element_size(type_) == sizeof(Real);
    const int64_t total_rows = conv_.batch * conv_.groups * conv_.channels * conv_.in[0] * conv_.in[1];
    for (int64_t c = 0; c < shape.channels; ++c) {
      const int64_t channel = ((image * conv_.groups + group) * conv_.channels + c) * conv_.in[0];
      for (int64_t t = 0; t < shape.frames; ++t) {
        const int64_t from_t = first_t * conv_.stride[0] - conv_.padding[0] + t;
        Real* frame = out + c * shape.channel() + t * shape.frame();
        if (from_t < 0 || from_t >= conv_.in[0]) {
          std::fill_n(frame, shape.rows * shape.row(), Real(0));
          continue;
        }
        std::fill_n(frame, top * shape.row(), Real(0));
        const int64_t row = (channel + from_t) * conv_.in[1] + from_h + top;
        rows.in = plane(row, rows.rows);
        rows.readable = in_place ? (total_rows - row) * conv_.in[2] : 0;
        rows.out = frame + top * shape.row();
        MER_FAST_DISPATCH(pack_rows, rows);
        std::fill_n(frame + end * shape.row(), (shape.rows - end) * shape.row(), Real(0));
      }
    }
    std::fill_n(out + shape.channels * shape.channel(), 64, Real(0));
  }

 private:
  // Rows of the input, widened where they are of 16 bits.
  const Real* plane(int64_t row, int64_t rows) {
    const char* source = input_ + row * conv_.in[2] * element_size(type_);
    if constexpr (sizeof(Real) == 4) {
      if (type_ != Element::f32) {
        wide_.resize(static_cast<size_t>(rows * conv_.in[2]));
        MER_FAST_DISPATCH(widen, type_, source, wide_.data(), rows * conv_.in[2]);
        return wide_.data();
      }
    }
    return reinterpret_cast<const Real*>(source);
  }

  const ConvShape& conv_;
  Element type_;
  const char* input_;
  std::vector<Real> line_, wide_;
};

}  // namespace mer_fast
