// Lanes and warp reductions. All functions are called by whole warps.
#pragma once

#include "cuda/launch.h"

namespace dapt::cuda {

constexpr unsigned kFullWarp = 0xffffffff;

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ unsigned warp_id() { return threadIdx.x / 32; }

}  // namespace dapt::cuda
