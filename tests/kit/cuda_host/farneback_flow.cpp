// Farneback's flow as the launcher runs it: frames (PAIRS, HEIGHT, WIDTH) twice, the initial flow if INITIAL -> (PAIRS, 2,
// HEIGHT, WIDTH). SHARED: bytes of shared memory of a block at most (0: all off chip); BLOCKS: that fill the GPU.
#include "schedule.h"
// after the stand-in
#include "../../../csrc/cuda/farneback_flow_schedule.h"

using namespace mer_fast;

int main(int count, char** words) {
  Program program(
      count, words,
      "farneback_flow ELEMENT PAIRS HEIGHT WIDTH INITIAL SHARED BLOCKS PYR_SCALE LEVELS WINSIZE ITERATIONS POLY_N POLY_SIGMA GAUSSIAN");
  const Index pairs = program.integer("PAIRS"), height = program.integer("HEIGHT"), width = program.integer("WIDTH");
  const FarnebackParams params{program.number("PYR_SCALE"),  program.integer("LEVELS"), program.integer("WINSIZE"),
                               program.integer("ITERATIONS"), program.integer("POLY_N"), program.number("POLY_SIGMA"),
                               program.integer("GAUSSIAN") != 0};
  const bool initial = program.integer("INITIAL") != 0;
  with_element(program.text("ELEMENT"), [&](auto element) {
    using Element = decltype(element);
    if constexpr (std::is_same_v<Element, float> || std::is_same_v<Element, unsigned char>) {
      Buffer<Element> frame0("frame0", pairs * height * width), frame1("frame1", pairs * height * width);
      Buffer<float> initial_flow("initial_flow", initial ? 2 * pairs * height * width : 0), flow("flow", 2 * pairs * height * width);
      FarnebackProblem<Element> problem{
          farneback_plan(height, width, params), pairs, {static_cast<int>(program.integer("SHARED")), program.integer("BLOCKS")},
          frame0.read().data(), frame1.read().data(), initial ? initial_flow.read().data() : nullptr, flow.data()};
      Launcher launcher;
      Memory memory;
      FarnebackSchedule<Element, Launcher>(problem, launcher, memory).run();
      flow.write();
    } else {
      fail("farneback_flow takes uint8 and float32");
    }
  });
}
