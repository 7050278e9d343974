// Row gather on CUDA, and its backward, which inverts the index so that every sum has one owner and
// a fixed order. An index outside the cloud names no point.
#include "cuda/dispatch.h"
#include "cuda/plan_rows.h"
#include "cuda/rows.cuh"
#include "cuda/warp.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // per team, so that several reads are in flight

template <int kBytes>
using VectorOf = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<kBytes == 8, uint2,
                       std::conditional_t<kBytes == 4, uint32_t,
                                          std::conditional_t<kBytes == 2, uint16_t, uint8_t>>>>;

// Parallel over output rows and their vectors: one team of threads per kRowsAtOnce rows.
template <int kBytes>
__global__ void __launch_bounds__(kRowThreads)
    gather_kernel(const GatherArgs args, int team, unsigned row_blocks) {
  using Vector = VectorOf<kBytes>;
  const int teams = kRowThreads / team;
  const TeamRow own(row_blocks, teams * kRowsAtOnce, team);
  const int64_t vectors = args.row_bytes / kBytes;
  const auto* values =
      static_cast<const Vector*>(args.values) + own.b * args.N * vectors;  // [N, C]
  auto* out = static_cast<Vector*>(args.out) + own.b * args.Q * vectors;   // [Q, C]
  int64_t source[kRowsAtOnce];
#pragma unroll
  for (int i = 0; i < kRowsAtOnce; ++i) {
    const int64_t q = own.row + i * teams;
    source[i] = q < args.Q ? args.idx[own.b * args.Q + q] : -1;
  }
  for (int64_t c = own.rank; c < vectors; c += team) {
    Vector read[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const bool valid = source[i] >= 0 && source[i] < args.N;
      read[i] = valid ? values[source[i] * vectors + c] : Vector{};
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int64_t q = own.row + i * teams;
      if (q < args.Q) out[q * vectors + c] = read[i];
    }
  }
}

using Offset = unsigned long long;

/// For each point, the slots (q, j) that name it, numbered q * k + j within their cloud.
struct InverseIndex {
  unsigned* counts;  // [B, N]
  Offset* begins;    // [B, N] where a point's list starts in `slots`; its end until it is filled
  Offset* used;      // [1] of `slots`
  unsigned* slots;   // [B * Q * k]
};

struct Slot {
  int64_t b;
  unsigned slot;
  int64_t point;  // in [0, B * N), or -1

  __device__ __forceinline__ Slot(const GatherBackwardArgs& args, unsigned slot_blocks)
      : b(blockIdx.x / slot_blocks),
        slot((blockIdx.x % slot_blocks) * blockDim.x + threadIdx.x),
        point(-1) {
    if (slot >= args.Q * args.k) return;
    const int64_t n = args.idx[b * args.Q * args.k + slot];
    if (n >= 0 && n < args.N) point = b * args.N + n;
  }
};

// Parallel over slots.
__global__ void count_slots_kernel(const GatherBackwardArgs args, const InverseIndex inverse,
                                   unsigned slot_blocks) {
  const Slot own(args, slot_blocks);
  if (own.point >= 0) atomicAdd(&inverse.counts[own.point], 1u);
}

// Parallel over points: each gets room for its slots, in no particular order.
__global__ void make_room_kernel(const InverseIndex inverse, int64_t points) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const unsigned lane = lane_id();
  Offset end = point < points ? inverse.counts[point] : 0;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const Offset before = __shfl_up_sync(kFullWarp, end, distance);
    if (lane >= static_cast<unsigned>(distance)) end += before;
  }
  Offset first = 0;
  if (lane == 31) first = atomicAdd(inverse.used, end);
  end += __shfl_sync(kFullWarp, first, 31);
  if (point < points) inverse.begins[point] = end;
}

// Parallel over slots.
__global__ void place_slots_kernel(const GatherBackwardArgs args, const InverseIndex inverse,
                                   unsigned slot_blocks) {
  const Slot own(args, slot_blocks);
  if (own.point < 0) return;
  const Offset end = atomicAdd(&inverse.begins[own.point], ~Offset(0));  // minus 1
  inverse.slots[end - 1] = own.slot;
}

constexpr int kSortWarps = 8, kSortable = 1024;

// Parallel over points: a warp sorts the slots of one point in ascending order. A list too long to
// sort is instead rebuilt by reading the index in order.
__global__ void __launch_bounds__(32 * kSortWarps)
    sort_slots_kernel(const GatherBackwardArgs args, const InverseIndex inverse) {
  __shared__ unsigned lists[kSortWarps][kSortable];
  const int64_t point = static_cast<int64_t>(blockIdx.x) * kSortWarps + warp_id();
  if (point >= args.B * args.N) return;
  const unsigned lane = lane_id(), count = inverse.counts[point];
  unsigned* slots = inverse.slots + inverse.begins[point];  // [count]
  if (count > kSortable) {
    const int64_t n = point % args.N, per_cloud = args.Q * args.k;
    const int64_t* idx = args.idx + point / args.N * per_cloud;
    unsigned found = 0;
    for (int64_t first = 0; first < per_cloud; first += 32) {
      const int64_t slot = first + lane;
      const bool hit = slot < per_cloud && idx[slot] == n;
      const unsigned hits = __ballot_sync(kFullWarp, hit);
      if (hit) slots[found + __popc(hits & ((1u << lane) - 1))] = static_cast<unsigned>(slot);
      found += __popc(hits);
    }
    return;
  }
  if (count < 2) return;
  unsigned* list = lists[warp_id()];
  unsigned size = 2;
  while (size < count) size *= 2;
  for (unsigned i = lane; i < size; i += 32) list[i] = i < count ? slots[i] : ~0u;
  for (unsigned span = 2; span <= size; span *= 2) {  // a bitonic network
    for (unsigned stride = span / 2; stride > 0; stride /= 2) {
      __syncwarp();
      for (unsigned pair = lane; pair < size / 2; pair += 32) {
        const unsigned lower = 2 * (pair & ~(stride - 1)) + (pair & (stride - 1));
        const unsigned upper = lower + stride, a = list[lower], b = list[upper];
        if ((b < a) == ((lower & span) == 0)) list[lower] = b, list[upper] = a;
      }
    }
  }
  __syncwarp();
  for (unsigned i = lane; i < count; i += 32) slots[i] = list[i];
}

__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }

// Parallel over points and their channels: a team of threads per point sums the gradient rows of
// its slots. Each product and sum is rounded separately, in the CPU kernel's order.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    sum_slots_kernel(const GatherBackwardArgs args, const InverseIndex inverse, int team,
                     unsigned row_blocks) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const TeamRow own(row_blocks, kRowThreads / team, team);
  if (own.row >= args.N) return;
  const int64_t point = own.b * args.N + own.row;
  const unsigned count = inverse.counts[point], k = static_cast<unsigned>(args.k);
  const unsigned* slots = inverse.slots + (count ? inverse.begins[point] : 0);  // [count]
  const T* grad = static_cast<const T*>(args.grad) + own.b * args.Q * args.C;   // [Q, C]
  const float* weights = args.weights ? args.weights + own.b * args.Q * args.k : nullptr;  // [Q, k]
  T* grad_values = static_cast<T*>(args.grad_values) + point * args.C;                     // [C]
  for (int64_t c = own.rank; c < args.C; c += team) {
    Sum sum = 0;
#pragma unroll 4
    for (unsigned i = 0; i < count; ++i) {
      const unsigned slot = slots[i];
      const Sum value = static_cast<Sum>(grad[slot / k * args.C + c]);
      sum = add(sum, weights ? multiply(static_cast<Sum>(weights[slot]), value) : value);
    }
    grad_values[c] = static_cast<T>(sum);
  }
}

InverseIndex invert(const GatherBackwardArgs& args, const Context& context) {
  const int64_t points = args.B * args.N, per_cloud = args.Q * args.k;
  if (per_cloud >= UINT32_MAX || args.k >= UINT32_MAX)
    throw std::length_error("idx must have less than 4294967295 entries per cloud on CUDA, got " +
                            std::to_string(per_cloud));
  InverseIndex inverse;
  const size_t cleared = sizeof(Offset) + points * sizeof(unsigned);
  inverse.used = static_cast<Offset*>(context.scratch(cleared));
  inverse.counts = reinterpret_cast<unsigned*>(inverse.used + 1);
  inverse.begins = static_cast<Offset*>(context.scratch(points * sizeof(Offset)));
  inverse.slots = static_cast<unsigned*>(context.scratch(args.B * per_cloud * sizeof(unsigned)));
  DAPT_CUDA_CHECK(cudaMemsetAsync(inverse.used, 0, cleared, context.stream));
  if (per_cloud == 0) return inverse;

  constexpr int kThreads = 256;
  const unsigned slot_blocks = grid_of(ceil_div(per_cloud, kThreads));
  const unsigned slot_grid = grid_of(args.B * slot_blocks);
  DAPT_LAUNCH(count_slots_kernel, slot_grid, kThreads, 0, context.stream, args, inverse,
              slot_blocks);
  DAPT_LAUNCH(make_room_kernel, grid_of(ceil_div(points, kThreads)), kThreads, 0, context.stream,
              inverse, points);
  DAPT_LAUNCH(place_slots_kernel, slot_grid, kThreads, 0, context.stream, args, inverse,
              slot_blocks);
  DAPT_LAUNCH(sort_slots_kernel, grid_of(ceil_div(points, kSortWarps)), 32 * kSortWarps, 0,
              context.stream, args, inverse);
  return inverse;
}

template <class T>
void sum_slots(const GatherBackwardArgs& args, const Context& context) {
  const InverseIndex inverse = invert(args, context);
  const RowPlan plan = plan_rows(args.C * sizeof(T), sizeof(T), {});
  const unsigned row_blocks = grid_of(ceil_div(args.N, kRowThreads / plan.team));
  DAPT_LAUNCH((sum_slots_kernel<T>), grid_of(args.B * row_blocks), kRowThreads, 0, context.stream,
              args, inverse, plan.team, row_blocks);
}

}  // namespace

void gather(const GatherArgs& args, const Context& context) {
  if (args.B * args.Q * args.row_bytes == 0) return;
  const RowPlan plan = plan_rows(args.row_bytes, 16, {args.values, args.out});
  const unsigned row_blocks = grid_of(ceil_div(args.Q, kRowThreads / plan.team * kRowsAtOnce));
  dispatch<1, 2, 4, 8, 16>("bytes at once", plan.vector, [&](auto vector) {
    DAPT_LAUNCH((gather_kernel<vector()>), grid_of(args.B * row_blocks), kRowThreads, 0,
                context.stream, args, plan.team, row_blocks);
  });
}

void gather_backward(const GatherBackwardArgs& args, const Context& context) {
  if (args.B * args.N * args.C == 0) return;
  switch (args.dtype) {
    case Real::f32: return sum_slots<float>(args, context);
    case Real::f64: return sum_slots<double>(args, context);
    case Real::f16: return sum_slots<__half>(args, context);
    case Real::bf16: return sum_slots<__nv_bfloat16>(args, context);
  }
  throw std::invalid_argument("gather_backward has no dtype " +
                              std::to_string(static_cast<int>(args.dtype)));
}

}  // namespace dapt::cuda
