// What every CUDA launcher does: make the tensor's device current, take torch's current stream, launch and check.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>

#include "../checks.h"
#include "element.cuh"

// Weak: the same library loads into a torch without CUDA, where this is null and no CUDA tensor arrives.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace mer_fast {

// While it lives, the tensor's device is current.
class OnDevice {
 public:
  OnDevice(const char* op, const Tensor& tensor) : op_(op), guard_(tensor.get_device_index()) {
    MER_FAST_CHECK(
        aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch has no CUDA; install one that has");
    // torch's guard spoke to torch's CUDA runtime; this library carries one of its own.
    check(cudaSetDevice(tensor.get_device_index()));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, Arguments... arguments) const {
    MER_FAST_CHECK(blocks <= std::numeric_limits<int32_t>::max(), op_, ": too many elements for one launch; split the batch");
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, arguments...));
  }

 private:
  void check(cudaError_t error) const {
    MER_FAST_CHECK(error == cudaSuccess, op_, ": CUDA says ", cudaGetErrorString(error));
  }

  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// The type of a float tensor's elements, as a value to pass on: calls work(Element{}).
template <typename Work>
void with_float(const char* op, const char* name, const Tensor& tensor, const Work& work) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return work(Half{});
    case ScalarType::BFloat16: return work(Bfloat16{});
    case ScalarType::Float: return work(0.0f);
    case ScalarType::Double: return work(0.0);
    default: MER_FAST_CHECK(false, op, ": ", name, " must be a float tensor; convert it with .to(torch.float32)");
  }
}

}  // namespace mer_fast
