// mer_fast._C: what was built, and NumPy doors in OpenCV's conventions (gray frames (H, W), flow (H, W, 2) float32).
// torch must be imported first: the operators' library, which this module calls, needs its libraries.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cpu/isa.h"
#include "cpu/tvl1_flow.h"

namespace py = pybind11;

namespace {

py::dict build_facts() {
  py::dict facts;
  facts["version"] = MER_FAST_VERSION;
  facts["compiler"] = MER_FAST_COMPILER;
  facts["cpu_kernels"] = MER_FAST_ISAS;
  facts["cpu_kernel_in_use"] = mer_fast::isa_name();
  facts["cuda"] = MER_FAST_CUDA_VERSION;
  facts["cuda_archs"] = MER_FAST_CUDA_ARCHS;
  return facts;
}

// Frames as OpenCV takes them: uint8, or float32 nominally 0..1.
py::array_t<float> tvl1_flow(
    const py::array& frame0, const py::array& frame1, float tau, float lam, float theta, int scales, float scale_step, int warps,
    float epsilon, int inner_iterations, int outer_iterations, int median) {
  const bool bytes = py::isinstance<py::array_t<uint8_t>>(frame0);
  if (!bytes && !py::isinstance<py::array_t<float>>(frame0)) throw py::type_error("tvl1_flow: frame0 must be uint8 or float32");
  if (bytes != py::isinstance<py::array_t<uint8_t>>(frame1) || (!bytes && !py::isinstance<py::array_t<float>>(frame1))) {
    throw py::type_error("tvl1_flow: frame0 and frame1 must have one dtype");
  }
  if (frame0.ndim() != 2 || frame1.ndim() != 2 || frame0.shape(0) != frame1.shape(0) || frame0.shape(1) != frame1.shape(1)) {
    throw py::value_error("tvl1_flow: frame0 and frame1 must be gray frames (H, W) of one size");
  }
  const int64_t height = frame0.shape(0), width = frame0.shape(1);
  if (height < 16 || width < 16) throw py::value_error("tvl1_flow: frames must be at least 16 pixels a side");
  const py::array a = py::array::ensure(frame0, py::array::c_style), b = py::array::ensure(frame1, py::array::c_style);
  py::array_t<float> planes({int64_t{2}, height, width});
  {
    const mer_fast::Tvl1Batch batch{
        {tau, lam, theta, scales, scale_step, warps, epsilon, inner_iterations, outer_iterations, median},
        a.data(), b.data(), bytes, nullptr, planes.mutable_data(), 1, height, width};
    py::gil_scoped_release release;
    try {
      mer_fast::tvl1_flow_batch(batch);
    } catch (const std::runtime_error& error) {
      throw py::value_error(error.what());
    }
  }
  // (2, H, W) in memory, (H, W, 2) to see: no copy.
  const int64_t item = sizeof(float);
  return py::array_t<float>({height, width, int64_t{2}}, {width * item, item, height * width * item}, planes.data(), planes);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts and NumPy doors of mer_fast; see mer_fast.info() and mer_fast.ops.";
  m.def("build_facts", &build_facts, "What this build has: version, compiler, CPU kernels, CUDA version and architectures.");
  m.def(
      "tvl1_flow", &tvl1_flow, "TV-L1 flow of two gray frames (H, W), uint8 or float32 0..1, as (H, W, 2) float32 (u right, v down, pixels).",
      py::arg("frame0"), py::arg("frame1"), py::kw_only(), py::arg("tau") = 0.25f, py::arg("lam") = 0.15f, py::arg("theta") = 0.3f,
      py::arg("scales") = 5, py::arg("scale_step") = 0.8f, py::arg("warps") = 5, py::arg("epsilon") = 0.01f,
      py::arg("inner_iterations") = 30, py::arg("outer_iterations") = 10, py::arg("median") = 5);
}
