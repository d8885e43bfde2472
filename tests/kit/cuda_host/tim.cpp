// tim ELEMENT OUTER IN OUT INNER ADJOINT TILE WIDE OFFSET BACKWARD < clip > result
#include "driver.h"
// after the stand-in
#include "tim.cuh"

using namespace mer_fast;

template <typename Element, int kTile, int kWidth>
void run(const TimShape& shape, bool adjoint, Index offset, bool backward) {
  using Real = Compute<Element>;
  Buffer<Real> weights(tim_weight_count(shape, kTile), 0, backward);
  Buffer<Element> clip(shape.outer * shape.in * shape.inner, offset, backward);
  Buffer<Element> out(shape.outer * shape.out * shape.inner, offset, backward);
  launch(
      backward, tim_weights<Real>, tim_weight_blocks(shape, kTile), kTimThreads, weights.data(), shape, kTile, adjoint);
  launch(
      backward, tim_frames<Element, kTile, kWidth>, tim_frame_blocks(shape, kTile, tim_pixels<Element>()), kTimThreads,
      clip.read().data(), weights.data(), out.data(), shape);
  out.write();
}

int main(int count, char** words) {
  if (count != 11) fail("tim: 10 arguments wanted");
  const auto number = [&](int k) { return std::atoll(words[k]); };
  const TimShape shape{number(2), number(3), number(4), number(5)};
  const bool adjoint = number(6), wide = number(8), backward = number(10);
  with_element(words[1], [&](auto element) {
    using Element = decltype(element);
    constexpr int kPixels = tim_pixels<Element>();
    const auto tile = [&](auto chosen) {
      if (wide) return run<Element, chosen.value, kPixels>(shape, adjoint, number(9), backward);
      run<Element, chosen.value, 1>(shape, adjoint, number(9), backward);
    };
    switch (number(7)) {
      case 4: return tile(std::integral_constant<int, 4>{});
      case 10: return tile(std::integral_constant<int, 10>{});
      case 16: return tile(std::integral_constant<int, 16>{});
      default: fail("tim: no such tile");
    }
  });
}
