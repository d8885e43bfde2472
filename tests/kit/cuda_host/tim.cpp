// Every weight and frame kernel of tim.cuh: clip (OUTER, IN, INNER) -> (OUTER, OUT, INNER).
#include "driver.h"
// after the stand-in
#include "tim.cuh"

using namespace mer_fast;

template <typename Element, int kTile, int kWidth>
void run(const TimShape& shape, bool adjoint, Index offset) {
  using Real = Compute<Element>;
  Buffer<Real> weights("weights", tim_weight_count(shape, kTile));
  Buffer<Element> clip("clip", shape.outer * shape.in * shape.inner, offset);
  Buffer<Element> out("out", shape.outer * shape.out * shape.inner, offset);
  launch<tim_weights<Real>>({tim_weight_blocks(shape, kTile), kTimThreads}, weights.data(), shape, kTile, adjoint);
  launch<tim_frames<Element, kTile, kWidth>>(
      {tim_frame_blocks(shape, kTile, tim_pixels<Element>()), kTimThreads}, clip.read().data(), weights.data(), out.data(),
      shape);
  out.write();
}

int main(int count, char** words) {
  Program program(count, words, "tim ELEMENT OUTER IN OUT INNER ADJOINT TILE WIDE OFFSET");
  const TimShape shape{program.integer("OUTER"), program.integer("IN"), program.integer("OUT"), program.integer("INNER")};
  const bool adjoint = program.integer("ADJOINT"), wide = program.integer("WIDE");
  const Index offset = program.integer("OFFSET");
  with_element(program.text("ELEMENT"), [&](auto element) {
    using Element = decltype(element);
    constexpr int kPixels = tim_pixels<Element>();
    const auto tile = [&](auto chosen) {
      if (wide) return run<Element, chosen.value, kPixels>(shape, adjoint, offset);
      run<Element, chosen.value, 1>(shape, adjoint, offset);
    };
    switch (program.integer("TILE")) {
      case 4: return tile(std::integral_constant<int, 4>{});
      case 10: return tile(std::integral_constant<int, 10>{});
      case 16: return tile(std::integral_constant<int, 16>{});
      default: fail("tim: no such tile");
    }
  });
}
