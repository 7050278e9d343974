// The device that the host plays, and the CUDA run-time calls that launchers make. Device memory is
// plain memory, and streams are trivially ordered, because everything is done when a call returns.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace dapt::on_host {

struct DeviceModel {
  int major = 9, minor = 0;
  int code = 90;  // the compute capability that kernels count as compiled for
  int multiprocessors = 132;
  std::size_t shared_per_block = 227 * 1024;  // including the opt-in that a launch makes by itself
  std::size_t shared_per_multiprocessor = 228 * 1024;
  int threads_per_multiprocessor = 2048;
  int blocks_per_multiprocessor = 32;
  int max_cluster = 16;
};

// Sets the device of all later launches; the default is an H100.
void set_device(const DeviceModel& model);
const DeviceModel& device();

}  // namespace dapt::on_host

typedef struct CUstream_st* cudaStream_t;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoKernelImageForDevice = 209,
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    default: return "invalid argument";
  }
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxThreadsPerMultiProcessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrClusterLaunch,
};

inline cudaError_t cudaGetDevice(int* ordinal) { return *ordinal = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const dapt::on_host::DeviceModel& model = dapt::on_host::device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = model.multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(model.shared_per_block); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = int(model.shared_per_multiprocessor);
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = model.threads_per_multiprocessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = model.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = model.minor; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrClusterLaunch: *value = model.major >= 9; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

struct cudaFuncAttributes {
  int ptxVersion;
};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = dapt::on_host::device().code;
  return cudaSuccess;
}

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
  if (bytes) std::memset(to, value, bytes);
  return cudaSuccess;
}
