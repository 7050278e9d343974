// Words that blocks of a running grid send each other: seen by all, in no order with other memory.
#pragma once

#include "cuda/launch.h"

namespace dapt::cuda {

__device__ __forceinline__ void store_relaxed(unsigned long long* to, unsigned long long word) {
#ifdef __CUDACC__
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
#else
  *to = word;
#endif
}

// To be called in a loop until what is waited for has come.
__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long* from) {
#ifdef __CUDACC__
  unsigned long long word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
#else
  on_host::yield();
  return *from;
#endif
}

}  // namespace dapt::cuda
