// The one CUDA header of this folder, and how kernels are launched. nvcc sees CUDA; a C++ compiler
// sees tests/cuda_on_host, which runs the same kernels on a CPU for the tests.
//
//   DAPT_LAUNCH((fps_kernel<256, 8>), grid, block, shared_bytes, stream, points, idx);
//
// A launch that fails throws std::runtime_error with the kernel's name and the reason.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_on_host/cuda_runtime.h"
#endif

#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

// A pointer to the dynamic shared memory of the block, aligned to 128 bytes:
// DAPT_DYNAMIC_SHARED(float, distances); defines float* distances.
#ifdef __CUDACC__
#define DAPT_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(128) unsigned char dapt_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dapt_dynamic_shared)
#else
#define DAPT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::dapt::on_host::dynamic_shared())
#endif

// Throws when a call of the CUDA run-time fails: DAPT_CUDA_CHECK(cudaMemsetAsync(...));
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

// The whole grid is on the device at once, so grid_sync() works.
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
  throw std::runtime_error(name_of(what) + ": " + cudaGetErrorString(error));
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  unsigned cluster_size = 1;
  bool cooperative = false;
};

#ifdef __CUDACC__

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  // Static and dynamic shared memory above 48 KB together need an opt-in; 16 KB are left to the
  // static.
  if (shape.shared_bytes > 32 * 1024)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shape.shared_bytes)),
          name);
  if (shape.cluster_size > 8)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);

  cudaLaunchAttribute attributes[2];
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
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...> >;
  const Call call(kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
  on_host::Launch launch;
  launch.kernel = name_of(name);
  launch.grid = shape.grid;
  launch.block = shape.block;
  launch.shared_bytes = shape.shared_bytes;
  launch.cluster = shape.cluster_size;
  launch.cooperative = shape.cooperative;
  launch.call = &call;
  launch.run_thread = [](const void* call) {
    const auto& [kernel, arguments] = *static_cast<const Call*>(call);
    std::apply(kernel, arguments);
  };
  on_host::run(launch);
}

#endif

}  // namespace dapt::cuda
