// Points of clouds, in global and in shared memory.
#pragma once

#include <cstdint>

#include "cuda/async_copy.cuh"
#include "cuda/distance.cuh"

namespace dapt::cuda {

__device__ __forceinline__ float squared_distance(float3 a, float3 b) {
  return squared_distance(a.x, a.y, a.z, b.x, b.y, b.z);
}

__device__ __forceinline__ float3 load_point(const float* points, int64_t n) {
  return make_float3(points[3 * n], points[3 * n + 1], points[3 * n + 2]);
}

/// The whole block copies `count` points to the 16-byte aligned `tile` and pads them with NaNs to
/// `padded` points. Coordinates stay interleaved: lanes 3 words apart have no bank conflicts.
__device__ __forceinline__ void load_tile(const float* points, int count, int padded, float* tile) {
  const int floats = 3 * count;
  const int in_fours = reinterpret_cast<uintptr_t>(points) % 16 == 0 ? floats / 4 * 4 : 0;
  for (int i = 4 * threadIdx.x; i < in_fours; i += 4 * blockDim.x)
    copy_async<16>(tile + i, points + i);
  for (int i = in_fours + threadIdx.x; i < floats; i += blockDim.x)
    copy_async<4>(tile + i, points + i);
  for (int i = floats + threadIdx.x; i < 3 * padded; i += blockDim.x)
    tile[i] = __uint_as_float(0x7fffffff);
  wait_for_copies();
}

/// The number of points in cloud b, always within [0, N], whatever `lengths` holds.
__device__ __forceinline__ int length_of(const int64_t* lengths, int64_t b, int64_t N) {
  if (!lengths) return static_cast<int>(N);
  const int64_t length = lengths[b];
  return static_cast<int>(length < 0 ? 0 : length > N ? N : length);
}

}  // namespace dapt::cuda
