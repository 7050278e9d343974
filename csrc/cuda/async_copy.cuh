// Copies from global to shared memory that bypass the registers, so that a thread can have many in
// flight.
#pragma once

#include <cstring>

#include "cuda/launch.h"

namespace dapt::cuda {

/// Both addresses are multiples of kBytes: 4, 8 or 16. wait_for_copies() waits for the data.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global), "n"(kBytes)
               : "memory");
#elif defined(DAPT_ON_HOST)
  on_host::copy_async(shared, global, kBytes);
#else
  std::memcpy(shared, global, kBytes);
#endif
}

/// Waits for this thread's copies; those of the whole block are visible after a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#elif defined(DAPT_ON_HOST)
  on_host::wait_for_copies();
#endif
}

}  // namespace dapt::cuda
