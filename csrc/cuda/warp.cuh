// Lanes, and reductions over a warp in which every lane takes part and gets the result. Blocks are
// one-dimensional.
#pragma once

#include "cuda/launch.h"

namespace dapt::cuda {

constexpr unsigned kFullWarp = 0xffffffff;

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ unsigned warp_id() { return threadIdx.x / 32; }

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Min {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// Exchanges at distances 16, 8, 4, 2, 1: a float sum is the same in every run and on every lane.
template <class T, class Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = operation(value, __shfl_xor_sync(kFullWarp, value, distance));
  return value;
}

__device__ __forceinline__ float warp_sum(float value) { return warp_reduce(value, Sum()); }
__device__ __forceinline__ double warp_sum(double value) { return warp_reduce(value, Sum()); }

// From compute capability 8.0 on, 32-bit integers are reduced in one instruction.
#if defined(DAPT_ON_HOST) || __CUDA_ARCH__ >= 800
#define DAPT_WARP_REDUCE(name, type, intrinsic, operation)  \
  __device__ __forceinline__ type warp_##name(type value) { \
    return __reduce_##intrinsic##_sync(kFullWarp, value);   \
  }
#else
#define DAPT_WARP_REDUCE(name, type, intrinsic, operation)  \
  __device__ __forceinline__ type warp_##name(type value) { \
    return warp_reduce(value, operation());                 \
  }
#endif
DAPT_WARP_REDUCE(sum, int, add, Sum)
DAPT_WARP_REDUCE(sum, unsigned, add, Sum)
DAPT_WARP_REDUCE(min, int, min, Min)
DAPT_WARP_REDUCE(min, unsigned, min, Min)
DAPT_WARP_REDUCE(max, int, max, Max)
DAPT_WARP_REDUCE(max, unsigned, max, Max)
#undef DAPT_WARP_REDUCE

// The largest 64-bit key: compares the high halves, then the low halves of those that tie.
__device__ __forceinline__ long long warp_max(long long key) {
  const int high = static_cast<int>(key >> 32);
  const int high_max = warp_max(high);
  const unsigned low_max = warp_max(high == high_max ? static_cast<unsigned>(key) : 0u);
  return static_cast<long long>(high_max) << 32 | low_max;
}
__device__ __forceinline__ unsigned long long warp_max(unsigned long long key) {
  const unsigned high = static_cast<unsigned>(key >> 32);
  const unsigned high_max = warp_max(high);
  const unsigned low_max = warp_max(high == high_max ? static_cast<unsigned>(key) : 0u);
  return static_cast<unsigned long long>(high_max) << 32 | low_max;
}

}  // namespace dapt::cuda
