// Lists the launches of TV-L1 flow without a GPU. Problems come by standard input, a line each:
//   ELEMENT PAIRS HEIGHT WIDTH INITIAL BLOCKS SHARED TAU LAM THETA SCALES SCALE_STEP WARPS EPSILON INNER OUTER MEDIAN
// BLOCKS and SHARED are what the GPU grants: blocks of a cluster, bytes of shared memory. Of every problem the launches go
// to standard output, one a line as list.h has them, and an empty line.
#include "list.h"
// after it
#include "../../csrc/cuda/tvl1_flow_schedule.h"

using namespace mer_fast;

template <typename Element>
void list(std::istream& words) {
  Tvl1Problem<Element> problem{};
  Tvl1Size size{};
  Tvl1Limits limits{};
  Tvl1Params& p = problem.params;
  int64_t scales = 0;
  bool initial = false;
  words >> problem.pairs >> size.height >> size.width >> initial >> limits.blocks >> limits.shared_bytes;
  words >> p.tau >> p.lam >> p.theta >> scales >> problem.scale_step >> p.warps >> p.epsilon >> p.inner_iterations;
  words >> p.outer_iterations >> p.median;
  if (!words) fail("a problem is ELEMENT PAIRS HEIGHT WIDTH INITIAL BLOCKS SHARED and the parameters");
  static float some_flow = 0.0f;
  problem.initial_flow = initial ? &some_flow : nullptr;
  problem.sizes = tvl1_pyramid(size.height, size.width, scales, problem.scale_step);
  problem.limits.assign(problem.sizes.size(), limits);
  Lister lister;
  Nowhere memory;
  Tvl1Schedule<Element, Lister>(problem, lister, memory).run();
}

int main() { list_problems({{"uint8", list<unsigned char>}, {"float32", list<float>}}); }
