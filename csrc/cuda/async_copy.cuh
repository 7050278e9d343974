// Copies from global to shared memory that do not pass through registers, so that a thread can have
// many under way.
#pragma once

#include <cstring>

#include "cuda/launch.h"

namespace dapt::cuda {

/// Both addresses are multiples of kBytes: 4, 8 or 16. The copy is there after wait_for_copies().
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

/// Waits for the copies of this thread; those of the block are there after a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#elif defined(DAPT_ON_HOST)
  on_host::wait_for_copies();
#endif
}

}  // namespace dapt::cuda
