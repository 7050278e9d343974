// Every warp collective, and the arithmetic of one thread, to be compared with numpy.
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "exports.h"

namespace dapt::cuda {

// One warp: shuffles with every way to choose a lane; `choice` differs by lane for __shfl_sync.
template <class T>
__global__ void shuffles(const T* values, const int* choice, int distance, int width, T* out) {
  const unsigned lane = lane_id();
  const T value = values[lane];
  out[lane] = __shfl_sync(kFullWarp, value, choice[lane], width);
  out[32 + lane] = __shfl_up_sync(kFullWarp, value, distance, width);
  out[64 + lane] = __shfl_down_sync(kFullWarp, value, distance, width);
  out[96 + lane] = __shfl_xor_sync(kFullWarp, value, distance, width);
}

// One warp in two diverged parts: the lanes of `mask`, and the others.
__global__ void votes(const int* values, unsigned mask, unsigned* out) {  // [11, 32]
  const unsigned lane = lane_id();
  if (!(mask >> lane & 1)) mask = ~mask;
  const int value = values[lane];
  unsigned results[11];
  if (mask & 1) {
    results[0] = __ballot_sync(mask, value & 1);
  } else {
    results[0] = __ballot_sync(mask, value & 1);
  }
  results[1] = __any_sync(mask, value > 5);
  results[2] = __all_sync(mask, value > 5);
  results[3] = __match_any_sync(mask, value & 3);
  results[4] = __reduce_add_sync(mask, value);
  results[5] = __reduce_min_sync(mask, value);
  results[6] = __reduce_max_sync(mask, value);
  results[7] = __reduce_min_sync(mask, static_cast<unsigned>(value));
  results[8] = __reduce_and_sync(mask, static_cast<unsigned>(value));
  results[9] = __reduce_or_sync(mask, static_cast<unsigned>(value));
  results[10] = __reduce_xor_sync(mask, static_cast<unsigned>(value));
  for (int i = 0; i < 11; ++i) out[i * 32 + lane] = results[i];
}

// The sum of index * value over the warp: a wrapper with a body for CUDA and one for the host.
__device__ int weigh_lanes(int value) {
#ifdef DAPT_ON_HOST
  int values[32], sum = 0;
  on_host::gather_lanes(kFullWarp, value, values);
  for (int i = 0; i < 32; ++i) sum += i * values[i];
  return sum;
#else
  return warp_sum(static_cast<int>(lane_id()) * value);
#endif
}

__global__ void weigh(const int* values, int* out) {
  out[lane_id()] = weigh_lanes(values[lane_id()]);
}

// One warp: the reductions of warp.cuh.
__global__ void reductions(const long long* values, long long* out) {
  const long long value = values[lane_id()];
  const int word = static_cast<int>(value);
  const long long results[] = {
      warp_max(value), static_cast<long long>(warp_max(static_cast<unsigned long long>(value))),
      warp_max(word),  warp_min(word),
      warp_sum(word),  static_cast<long long>(warp_min(static_cast<unsigned>(word)))};
  for (int i = 0; i < 6; ++i) out[i * 32 + lane_id()] = results[i];
}

// Parallelize over n: conversions to half and bfloat16 and back.
__global__ void round_trips(const float* values, int n, unsigned short* halves, float* from_halves,
                            unsigned short* bfloats, float* from_bfloats) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const half as_half = __float2half_rn(values[i]);
  const __nv_bfloat16 as_bfloat = __float2bfloat16_rn(values[i]);
  halves[i] = __half_as_ushort(as_half);
  from_halves[i] = __half2float(as_half);
  bfloats[i] = __bfloat16_as_ushort(as_bfloat);
  from_bfloats[i] = __bfloat162float(as_bfloat);
}

// Parallelize over n: float operations that must be exact to the last bit, and bit functions.
__global__ void arithmetic(const float4* values, int n, float* floats, int* ints) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float4 v = values[i];
  const unsigned a = __float_as_uint(v.x), b = __float_as_uint(v.y);
  const float float_results[] = {__fmaf_rn(v.x, v.y, v.z),
                                 __fadd_rn(__fmul_rn(v.x, v.y), v.z),
                                 __fsub_rn(v.x, v.y),
                                 __fdiv_rn(v.x, v.y),
                                 __fsqrt_rn(fabsf(v.x)),
                                 min(v.x, v.w),
                                 max(v.x, v.w)};
  const int int_results[] = {__popc(a),
                             __clz(static_cast<int>(a)),
                             __ffs(static_cast<int>(a)),
                             static_cast<int>(__brev(a)),
                             static_cast<int>(__umulhi(a, b)),
                             static_cast<int>(__funnelshift_r(a, b, 7)),
                             static_cast<int>(__byte_perm(a, b, 0x3715)),
                             __float2int_rz(v.w)};
  for (int j = 0; j < 7; ++j) floats[j * n + i] = float_results[j];
  for (int j = 0; j < 8; ++j) ints[j * n + i] = int_results[j];
}

}  // namespace dapt::cuda

using namespace dapt::cuda;

EXPORT const char* run_shuffles_4(const float* values, const int* choice, int distance, int width,
                                  float* out) {
  return message_of([&] {
    DAPT_LAUNCH(shuffles<float>, 1, 32, 0, nullptr, values, choice, distance, width, out);
  });
}
EXPORT const char* run_shuffles_8(const double* values, const int* choice, int distance, int width,
                                  double* out) {
  return message_of([&] {
    DAPT_LAUNCH(shuffles<double>, 1, 32, 0, nullptr, values, choice, distance, width, out);
  });
}
EXPORT const char* run_votes(const int* values, unsigned mask, unsigned* out) {
  return message_of([&] { DAPT_LAUNCH(votes, 1, 32, 0, nullptr, values, mask, out); });
}
EXPORT const char* run_weigh(const int* values, int* out) {
  return message_of([&] { DAPT_LAUNCH(weigh, 1, 32, 0, nullptr, values, out); });
}
EXPORT const char* run_reductions(const long long* values, long long* out) {
  return message_of([&] { DAPT_LAUNCH(reductions, 1, 32, 0, nullptr, values, out); });
}
EXPORT const char* run_round_trips(const float* values, int n, unsigned short* halves,
                                   float* from_halves, unsigned short* bfloats,
                                   float* from_bfloats) {
  return message_of([&] {
    DAPT_LAUNCH(round_trips, (n + 255) / 256, 256, 0, nullptr, values, n, halves, from_halves,
                bfloats, from_bfloats);
  });
}
EXPORT const char* run_arithmetic(const float* values, int n, float* floats, int* ints) {
  return message_of([&] {
    DAPT_LAUNCH(arithmetic, (n + 255) / 256, 256, 0, nullptr,
                reinterpret_cast<const float4*>(values), n, floats, ints);
  });
}
