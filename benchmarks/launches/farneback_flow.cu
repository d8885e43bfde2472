// Lists the launches of Farneback's flow without a GPU. Problems come by standard input, a line each:
//   ELEMENT PAIRS HEIGHT WIDTH INITIAL SHARED BLOCKS PYR_SCALE LEVELS WINSIZE ITERATIONS POLY_N POLY_SIGMA GAUSSIAN
// SHARED and BLOCKS are what the GPU grants: bytes of shared memory of a block, and blocks that fill it. Of every problem the
// launches go to standard output, one a line as list.h has them, and an empty line.
#include "list.h"
// after it
#include "../../csrc/cuda/farneback_flow_schedule.h"

using namespace mer_fast;

template <typename Element>
void list(std::istream& words) {
  FarnebackProblem<Element> problem{};
  FarnebackParams params{};
  int64_t height = 0, width = 0;
  bool initial = false;
  words >> problem.pairs >> height >> width >> initial >> problem.limits.shared_bytes >> problem.limits.blocks;
  words >> params.pyr_scale >> params.levels >> params.winsize >> params.iterations >> params.poly_n >> params.poly_sigma >> params.gaussian;
  if (!words) fail("a problem is ELEMENT PAIRS HEIGHT WIDTH INITIAL SHARED BLOCKS and the parameters");
  static float some_flow = 0.0f;
  problem.initial_flow = initial ? &some_flow : nullptr;
  problem.plan = farneback_plan(height, width, params);
  Lister lister;
  Nowhere memory;
  FarnebackSchedule<Element, Lister>(problem, lister, memory).run();
}

int main() { list_problems({{"uint8", list<unsigned char>}, {"float32", list<float>}}); }
