// k nearest neighbors in any dimension on CUDA: a warp compares its query with 32 points at a time
// and keeps the smallest keys in registers. More than 512 neighbors take several passes, each
// starting where the last one ended.
#include "cuda/knn_any.h"

#include "cuda/dispatch.h"
#include "cuda/plan_knn.h"
#include "cuda/points.cuh"
#include "cuda/topk.cuh"

namespace dapt::cuda {
namespace {

constexpr int kWarps = 8;  // per block

__device__ float squared_distance(const float* a, const float* b, int64_t D) {
  float sum = 0;
  for (int64_t d = 0; d < D; ++d) {
    const float gap = __fsub_rn(a[d], b[d]);
    sum = __fmaf_rn(gap, gap, sum);
  }
  return sum;
}

/// The smallest key that a pass looks for: the one after the last neighbor found.
__device__ Key first_key(const KnnArgs& args, int64_t row, int64_t rank) {
  if (rank == 0) return 0;
  const int64_t* idx = args.idx + row * args.k;
  const int64_t last = idx[rank - 1];
  if (last == idx[0]) return kNoKey;  // a filled slot: no neighbor is left
  const float distance = args.sq_dist[row * args.k + rank - 1];
  return make_key(__float_as_uint(distance), static_cast<unsigned>(last)) + 1;
}

// Parallel over queries: one warp each finds the neighbors from `rank` up to `rank` + `width`.
template <int kRows>
__global__ void __launch_bounds__(32 * kWarps, 1)
    knn_any_kernel(const KnnArgs args, int64_t rank, int width) {
  DAPT_DYNAMIC_SHARED(Key, buffers);  // [kWarps, kBuffer]
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id();
  if (row >= args.B * args.M) return;
  const int64_t b = row / args.M;
  const int count = length_of(args.lengths, b, args.N);
  const float* cloud = args.points + b * args.N * args.D;  // [N, D]
  const float* query = args.queries + row * args.D;        // [D]
  const Key from = first_key(args, row, rank);
  TopK<kRows> list(buffers + warp_id() * TopK<kRows>::kBuffer, width);
  for (int64_t step = 0; step < count; step += 32) {
    const int64_t n = step + lane_id();
    Key key = kNoKey;
    if (n < count)
      key = make_key(__float_as_uint(squared_distance(query, cloud + n * args.D, args.D)),
                     static_cast<unsigned>(n));
    list.offer(key, key >= from);
    list.merge(step + 32 >= count);
  }
  const Key first = list.at(0);
  const int64_t nearest = rank > 0 ? args.idx[row * args.k] : first < kNoKey ? index_of(first) : 0;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int j = i * 32 + static_cast<int>(lane_id());
    if (j >= width) continue;
    const Key key = list.keys[i];
    const int64_t slot = row * args.k + rank + j;
    args.idx[slot] = key < kNoKey ? index_of(key) : nearest;
    args.sq_dist[slot] = __uint_as_float(key < kNoKey ? distance_bits(key) : 0x7f800000);
  }
}

}  // namespace

void knn_any(const KnnArgs& args, const Context& context) {
  if (args.B * args.M == 0) return;
  check_cloud_size(args.N);
  if (args.patches || !args.sq_dist)
    throw std::invalid_argument("kNN in any dimension gives distances and makes no patches");
  int keys = 1;
  while (keys < kMaxKeys && 32 * keys < args.k) keys *= 2;
  const unsigned grid = grid_of(ceil_div(args.B * args.M, kWarps));
  dispatch<1, 2, 4, 8, kMaxKeys>("keys of a kNN", keys, [&](auto rows) {
    constexpr int kRows = rows();
    for (int64_t rank = 0; rank < args.k; rank += 32 * kRows) {
      const int width = static_cast<int>(std::min<int64_t>(args.k - rank, 32 * kRows));
      DAPT_LAUNCH((knn_any_kernel<kRows>), grid, 32 * kWarps,
                  kWarps * TopK<kRows>::kBuffer * sizeof(Key), context.stream, args, rank, width);
    }
  });
}

}  // namespace dapt::cuda
