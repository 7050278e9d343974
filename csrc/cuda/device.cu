// Properties of the current device.
#include "cuda/device.h"

#include <map>

#include "cuda/launch.h"

namespace dapt::cuda {
namespace {

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  DAPT_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, ordinal));
  return value;
}

__global__ void one_block_per_multiprocessor() {}

#ifdef __CUDACC__

// A slice of a GPU (MIG) may lack the neighboring multiprocessors that a large cluster needs.
int largest_cluster(const Device& device) {
  const auto kernel = one_block_per_multiprocessor;
  DAPT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       device.shared_per_block));
  DAPT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (int blocks = 16; blocks > 1; blocks /= 2) {
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {unsigned(blocks), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(512);
    config.dynamicSmemBytes = device.shared_per_block;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int fitting = 0;
    if (cudaOccupancyMaxActiveClusters(&fitting, kernel, &config) == cudaSuccess && fitting > 0)
      return blocks;
    cudaGetLastError();  // so that no later launch reports the unsupported size
  }
  return 1;
}

#else

int largest_cluster(const Device&) { return on_host::device().max_cluster; }

#endif

Device query(int ordinal) {
  cudaFuncAttributes compiled;
  DAPT_CUDA_CHECK(cudaFuncGetAttributes(&compiled, one_block_per_multiprocessor));
  Device device{.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, ordinal),
                .shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
                .max_cluster = 1,
                .code = compiled.ptxVersion};
  if (device.code >= 90) device.max_cluster = largest_cluster(device);
  return device;
}

}  // namespace

Device current_device() {
  int ordinal = 0;
  DAPT_CUDA_CHECK(cudaGetDevice(&ordinal));
#ifdef __CUDACC__
  thread_local std::map<int, Device> known;
  const auto found = known.find(ordinal);
  return found != known.end() ? found->second
                              : known.emplace(ordinal, query(ordinal)).first->second;
#else
  return query(ordinal);  // the device that the host emulates may change
#endif
}

}  // namespace dapt::cuda
