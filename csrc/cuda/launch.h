// The one place that includes CUDA, and how kernels are launched. nvcc gets CUDA itself; a C++
// compiler gets tests/cuda_on_host, which runs the same kernels on a CPU for the tests.
//
//   DAPT_LAUNCH((fps_kernel<256, 8>), grid, block, shared_bytes, stream, points, idx);
//
// A failed launch throws std::runtime_error with the kernel's name and the reason.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_on_host/cuda_runtime.h"
#endif

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

// A pointer to the block's dynamic shared memory, aligned to 128 bytes:
// DAPT_DYNAMIC_SHARED(float, distances); defines float* distances.
#ifdef __CUDACC__
#define DAPT_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(128) unsigned char dapt_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dapt_dynamic_shared)
#else
#define DAPT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::dapt::on_host::dynamic_shared())
#endif

// Throws if a CUDA runtime call fails: DAPT_CUDA_CHECK(cudaMemsetAsync(...));
#define DAPT_CUDA_CHECK(call) ::dapt::cuda::check(call, #call)

#define DAPT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
  ::dapt::cuda::launch(#kernel, kernel,                                                            \
                       ::dapt::cuda::LaunchShape{grid, block, shared_bytes, stream} __VA_OPT__(, ) \
                           __VA_ARGS__)

// Each `cluster_size` consecutive blocks along x form a cluster; needs compute capability 9.0.
#define DAPT_LAUNCH_CLUSTER(kernel, cluster_size, grid, block, shared_bytes, stream, ...) \
  ::dapt::cuda::launch(#kernel, kernel,                                                   \
                       ::dapt::cuda::LaunchShape{grid, block, shared_bytes, stream,       \
                                                 cluster_size} __VA_OPT__(, ) __VA_ARGS__)

// The whole grid is on the device at once, so its blocks may wait for each other.
#define DAPT_LAUNCH_COOPERATIVE(kernel, grid, block, shared_bytes, stream, ...)        \
  ::dapt::cuda::launch(#kernel, kernel,                                                \
                       ::dapt::cuda::LaunchShape{grid, block, shared_bytes, stream, 1, \
                                                 true} __VA_OPT__(, ) __VA_ARGS__)

namespace dapt::cuda {

// As written in the source, without the parentheses that a macro's argument may need.
inline std::string name_of(const std::string& kernel) {
  return kernel.front() == '(' ? kernel.substr(1, kernel.size() - 2) : kernel;
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next launch does not report this error again
  std::string message = name_of(what) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice)
    message += "; build dapt_ext with TORCH_CUDA_ARCH_LIST of this GPU's compute capability";
  throw std::runtime_error(message);
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  unsigned cluster_size = 1;
  bool cooperative = false;
};

#ifdef __CUDACC__

/// Lets `kernel` use all that a block of the current device can: more than 48 KB of shared memory
/// and clusters of more than 8 blocks. Done once per kernel and device, always with the same
/// limits, so that threads launching at once do not undo each other's.
inline void lift_limits(const void* kernel, const char* name) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> lifted;
  int ordinal = 0, shared_bytes = 0;
  check(cudaGetDevice(&ordinal), name);
  const std::scoped_lock lock(mutex);
  if (lifted.contains({kernel, ordinal})) return;
  cudaFuncAttributes compiled;
  check(cudaFuncGetAttributes(&compiled, kernel), name);
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
        name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_bytes - int(compiled.sharedSizeBytes)),
        name);
  if (compiled.ptxVersion >= 90)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  lifted.insert({kernel, ordinal});
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  // 16 of the 48 KB are reserved for static shared memory.
  if (shape.shared_bytes > 32 * 1024 || shape.cluster_size > 8)
    lift_limits(reinterpret_cast<const void*>(kernel), name);

  cudaLaunchAttribute attributes[3];
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  if (shape.cluster_size > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = shape.cluster_size;
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
    // The blocks of a cluster work at the same time, so no two should share a multiprocessor.
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[config.numAttrs++].val.clusterSchedulingPolicyPreference =
        cudaClusterSchedulingPolicySpread;
  }
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
  check(cudaGetLastError(), name);
}

#else

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  const Call call(kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
  on_host::Launch launch;
  launch.kernel = name_of(name);
  launch.grid = shape.grid;
  launch.block = shape.block;
  launch.shared_bytes = shape.shared_bytes;
  launch.cluster = shape.cluster_size;
  launch.cooperative = shape.cooperative;
  launch.call = &call;
  launch.code = reinterpret_cast<const void*>(kernel);
  launch.run_thread = [](const void* call) {
    const auto& [kernel, arguments] = *static_cast<const Call*>(call);
    std::apply(kernel, arguments);
  };
  on_host::run(launch);
}

#endif

}  // namespace dapt::cuda
