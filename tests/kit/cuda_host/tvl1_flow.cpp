// TV-L1 flow as the launcher runs it: frames (PAIRS, HEIGHT, WIDTH) twice, the initial flow if INITIAL -> (PAIRS, 2, HEIGHT, WIDTH).
// BLOCKS: of a cluster at most (1: a GPU without clusters, 0: every level tiled).
#include "schedule.h"
// after the stand-in
#include "../../../csrc/cuda/tvl1_flow_schedule.h"

using namespace mer_fast;

int main(int count, char** words) {
  Program program(
      count, words,
      "tvl1_flow ELEMENT PAIRS HEIGHT WIDTH INITIAL BLOCKS TAU LAM THETA SCALES SCALE_STEP WARPS EPSILON INNER OUTER MEDIAN");
  const auto integer = [&](const char* name) { return static_cast<int>(program.integer(name)); };
  const auto number = [&](const char* name) { return static_cast<float>(program.number(name)); };
  const Index pairs = integer("PAIRS");
  const Tvl1Size size{program.integer("HEIGHT"), program.integer("WIDTH")};
  const Tvl1Params params{number("TAU"),     number("LAM"),   number("THETA"), number("SCALE_STEP"), number("EPSILON"),
                          integer("WARPS"), integer("INNER"), integer("OUTER"), integer("MEDIAN")};
  with_element(program.text("ELEMENT"), [&](auto element) {
    using Element = decltype(element);
    if constexpr (std::is_same_v<Element, float> || std::is_same_v<Element, unsigned char>) {
      Buffer<Element> frame0("frame0", pairs * size.pixels()), frame1("frame1", pairs * size.pixels());
      Buffer<float> initial("initial_flow", integer("INITIAL") ? 2 * pairs * size.pixels() : 0), flow("flow", 2 * pairs * size.pixels());
      Tvl1Problem<Element> problem{params, program.number("SCALE_STEP"), pairs, tvl1_pyramid(size.height, size.width, integer("SCALES"), program.number("SCALE_STEP")),
                                   {}, frame0.read().data(), frame1.read().data(),
                                   integer("INITIAL") ? initial.read().data() : nullptr, flow.data()};
      problem.limits.assign(problem.sizes.size(), {integer("BLOCKS"), 227 * 1024});
      Launcher launcher;
      Memory memory;
      Tvl1Schedule<Element, Launcher>(problem, launcher, memory).run();
      flow.write();
    } else {
      fail("tvl1_flow takes uint8 and float32");
    }
  });
}
