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

constexpr int kPortableCluster = 8;  // blocks that every GPU with clusters grants

struct LaunchShape {
  int64_t blocks;
  int threads;
  int shared = 0;   // bytes of dynamic shared memory
  int cluster = 1;  // blocks of a cluster
};

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
    launch(kernel, LaunchShape{blocks, threads}, arguments...);
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments... arguments) const {
    MER_FAST_CHECK(
        shape.blocks <= std::numeric_limits<int32_t>::max(), op_, ": too many elements for one launch; split the batch");
    allow(kernel, shape);
    cudaLaunchAttribute cluster = cluster_of(shape);
    const cudaLaunchConfig_t config = this->config(shape, &cluster);
    check(cudaLaunchKernelEx(&config, kernel, arguments...));
  }

  // Whether the device can hold one cluster of that kernel.
  template <typename... Parameters>
  bool holds(void (*kernel)(Parameters...), const LaunchShape& shape) const {
    allow(kernel, shape);
    cudaLaunchAttribute cluster = cluster_of(shape);
    const cudaLaunchConfig_t config = this->config(shape, &cluster);
    int clusters = 0;
    const bool asked = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess;
    if (!asked) (void)cudaGetLastError();
    return asked && clusters > 0;
  }

  void zero(void* data, int64_t bytes) const { check(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream_)); }

  // Whether the device has clusters, and this build of the kernel knows of them: code for older ones runs there too.
  template <typename... Parameters>
  bool has_clusters(void (*kernel)(Parameters...)) const {
    cudaFuncAttributes attributes = {};
    check(cudaFuncGetAttributes(&attributes, kernel));
    return attribute(cudaDevAttrComputeCapabilityMajor) >= 9 && attributes.ptxVersion >= 90;
  }
  // Dynamic shared memory that a block may ask for.
  int shared_bytes() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  int processors() const { return attribute(cudaDevAttrMultiProcessorCount); }

 private:
  // More shared memory than every GPU has, and clusters that not every GPU of sm_90 grants, must be asked for.
  template <typename... Parameters>
  void allow(void (*kernel)(Parameters...), const LaunchShape& shape) const {
    if (shape.shared > 48 * 1024) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared));
    if (shape.cluster > kPortableCluster) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }

  static cudaLaunchAttribute cluster_of(const LaunchShape& shape) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    return attribute;
  }

  cudaLaunchConfig_t config(const LaunchShape& shape, cudaLaunchAttribute* cluster) const {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared);
    config.stream = stream_;
    config.attrs = cluster;
    config.numAttrs = shape.cluster > 1 ? 1 : 0;
    return config;
  }

  int attribute(cudaDeviceAttr which) const {
    int device = 0, value = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&value, which, device));
    return value;
  }

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
