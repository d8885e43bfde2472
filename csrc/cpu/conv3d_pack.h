// Packs a piece of one image and group, with zeros for the padding: [channel][t][h][phase][w / phases].
#pragma once

#include <algorithm>
#include <vector>

#include "conv3d_kernel.h"
#include "conv3d_shape.h"

namespace mer_fast {

struct PackedShape {
  int64_t channels, frames, rows, phases, width;  // width of one phase
  int64_t row() const { return phases * width; }
  // A frame's step must not be a multiple of a cache way, or its taps in time would evict each other.
  int64_t frame() const { return rows * row() + (rows * row() % 512 == 0 ? 16 : 0); }
  int64_t channel() const { return frames * frame(); }
  int64_t size() const { return channels * channel() + 64; }  // vectors may be read past the end
};

// The first tap of output position (t, h) = first stands at input (t, h) * stride - padding.
template <typename Real>
class Packer {
 public:
  Packer(const ConvShape& conv, Element type, const void* input) : conv_(conv), type_(type), input_(static_cast<const char*>(input)) {}

  void pack(int64_t image, int64_t group, int64_t first_t, int64_t first_h, const PackedShape& shape, Real* out) {
    line_.assign(static_cast<size_t>(shape.row() + 64), Real(0));
    for (int64_t c = 0; c < shape.channels; ++c) {
      const int64_t plane = ((image * conv_.groups + group) * conv_.channels + c) * conv_.in[0];
      for (int64_t t = 0; t < shape.frames; ++t) {
        const int64_t from_t = first_t * conv_.stride[0] - conv_.padding[0] + t;
        for (int64_t h = 0; h < shape.rows; ++h) {
          const int64_t from_h = first_h * conv_.stride[1] - conv_.padding[1] + h;
          Real* row = out + c * shape.channel() + t * shape.frame() + h * shape.row();
          if (from_t < 0 || from_t >= conv_.in[0] || from_h < 0 || from_h >= conv_.in[1]) {
            std::fill_n(row, shape.row(), Real(0));
          } else {
            pack_row(((plane + from_t) * conv_.in[1] + from_h) * conv_.in[2], shape, row);
          }
        }
      }
    }
    std::fill_n(out + shape.channels * shape.channel(), 64, Real(0));
  }

 private:
  void pack_row(int64_t from, const PackedShape& shape, Real* row) {
    const int64_t pad = std::min(conv_.padding[2], shape.row());
    const int64_t many = std::min(conv_.in[2], shape.row() - pad);
    const char* source = input_ + from * element_size(type_);
    Real* line = shape.phases == 1 ? row : line_.data();
    std::fill_n(line, pad, Real(0));
    if (element_size(type_) == sizeof(Real)) {
      std::copy_n(reinterpret_cast<const Real*>(source), many, line + pad);
    } else if constexpr (sizeof(Real) == 4) {
      MER_FAST_DISPATCH(widen, type_, source, line + pad, many);
    }
    std::fill_n(line + pad + many, shape.row() - pad - many, Real(0));
    if (shape.phases > 1) MER_FAST_DISPATCH(deinterleave, line, row, shape.phases, shape.width);
  }

  const ConvShape& conv_;
  Element type_;
  const char* input_;
  std::vector<Real> line_;
};

}  // namespace mer_fast
