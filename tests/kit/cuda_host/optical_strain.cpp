// The strain kernels: flow -> strain, or with GRADIENT the gradient of the flow from flow and the strain's gradient.
#include "driver.h"
// after the stand-in
#include "optical_strain.cuh"

using namespace mer_fast;

template <typename Element, Derivative kKind>
void run(const StrainShape& shape, double shear, bool gradient, Index offset) {
  const Index pixels = shape.images * shape.height * shape.width;
  Buffer<Element> flow("flow", 2 * pixels, offset), strain("strain", pixels, offset);
  flow.read();
  if (!gradient) {
    launch<optical_strain<Element, kKind>>(
        {strain_blocks(shape), kStrainThreads}, flow.data(), strain.data(), shape, static_cast<Compute<Element>>(shear));
    return strain.write();
  }
  Buffer<Element> out("gradient", 2 * pixels, offset);
  launch<optical_strain_backward<Element, kKind>>(
      {strain_blocks(shape), kStrainThreads}, strain.read().data(), flow.data(), out.data(), shape,
      static_cast<Compute<Element>>(shear));
  out.write();
}

int main(int count, char** words) {
  Program program(count, words, "optical_strain ELEMENT DERIVATIVE IMAGES HEIGHT WIDTH SHEAR GRADIENT OFFSET");
  const StrainShape shape{
      program.integer("IMAGES"), static_cast<int>(program.integer("HEIGHT")), static_cast<int>(program.integer("WIDTH"))};
  const std::string& derivative = program.text("DERIVATIVE");
  with_element(program.text("ELEMENT"), [&](auto element) {
    using Element = decltype(element);
    if constexpr (!std::is_same_v<Element, unsigned char>) {
      const auto go = [&](auto kind) {
        run<Element, kind.value>(shape, program.number("SHEAR"), program.integer("GRADIENT"), program.integer("OFFSET"));
      };
      if (derivative == "central") return go(std::integral_constant<Derivative, Derivative::central>{});
      if (derivative == "forward") return go(std::integral_constant<Derivative, Derivative::forward>{});
      if (derivative == "sobel") return go(std::integral_constant<Derivative, Derivative::sobel>{});
    }
    fail("optical_strain: no such kernel");
  });
}
