// The squared distance, with the order of float operations that every backend uses (ops.h).
#pragma once

#include "cuda/launch.h"

namespace dapt::cuda {

__device__ __forceinline__ float squared_norm(float x, float y, float z) {
  return __fmaf_rn(z, z, __fmaf_rn(y, y, __fmul_rn(x, x)));
}

__device__ __forceinline__ float squared_distance(float ax, float ay, float az, float bx, float by,
                                                  float bz) {
  return squared_norm(__fsub_rn(ax, bx), __fsub_rn(ay, by), __fsub_rn(az, bz));
}

}  // namespace dapt::cuda
