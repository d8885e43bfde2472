// optical_strain ELEMENT DERIVATIVE IMAGES HEIGHT WIDTH SHEAR GRADIENT OFFSET BACKWARD < flow [gradient] > result
#include "driver.h"
// after the stand-in
#include "optical_strain.cuh"

using namespace mer_fast;

template <typename Element, Derivative kKind>
void run(const StrainShape& shape, double shear, bool gradient, Index offset, bool backward) {
  const Index pixels = shape.images * shape.height * shape.width;
  Buffer<Element> flow(2 * pixels, offset, backward), strain(pixels, offset, backward);
  flow.read();
  if (!gradient) {
    launch(
        backward, optical_strain<Element, kKind>, strain_blocks(shape), kStrainThreads, flow.data(), strain.data(), shape,
        static_cast<Compute<Element>>(shear));
    return strain.write();
  }
  Buffer<Element> out(2 * pixels, offset, backward);
  launch(
      backward, optical_strain_backward<Element, kKind>, strain_blocks(shape), kStrainThreads, strain.read().data(),
      flow.data(), out.data(), shape, static_cast<Compute<Element>>(shear));
  out.write();
}

int main(int count, char** words) {
  if (count != 10) fail("optical_strain: 9 arguments wanted");
  const auto number = [&](int k) { return std::atoi(words[k]); };
  const StrainShape shape{number(3), number(4), number(5)};
  const std::string derivative = words[2];
  with_element(words[1], [&](auto element) {
    using Element = decltype(element);
    if constexpr (!std::is_same_v<Element, unsigned char>) {
      const auto go = [&](auto kind) {
        run<Element, kind.value>(shape, std::atof(words[6]), number(7), number(8), number(9));
      };
      if (derivative == "central") return go(std::integral_constant<Derivative, Derivative::central>{});
      if (derivative == "forward") return go(std::integral_constant<Derivative, Derivative::forward>{});
      if (derivative == "sobel") return go(std::integral_constant<Derivative, Derivative::sobel>{});
    }
    fail("optical_strain: no such kernel");
  });
}
