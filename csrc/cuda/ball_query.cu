// Ball query on CUDA: a warp compares its query with 32 points at a time, in order, and stops once
// it has K hits.
#include "cuda/plan_knn.h"
#include "cuda/points.cuh"
#include "cuda/warp.cuh"

namespace dapt::cuda {
namespace {

// Parallel over queries: one warp each; the warps of a block share each tile of their cloud.
__global__ void __launch_bounds__(32 * kMaxWarps)
    ball_query_kernel(const BallQueryArgs args, unsigned query_blocks, int tile_size) {
  DAPT_DYNAMIC_SHARED(float, tile);  // [tile_size, 3]
  const int64_t b = blockIdx.x / query_blocks;
  const int64_t m = static_cast<int64_t>(blockIdx.x % query_blocks) * (blockDim.x / 32) + warp_id();
  const bool active = m < args.M;
  const int64_t row = b * args.M + (active ? m : 0);
  const float* cloud = args.points + 3 * b * args.N;  // [N, 3]
  const float3 query = load_point(args.queries, row);
  const int64_t count = length_of(args.lengths, b, args.N);
  int64_t* idx = args.idx + row * args.K;  // [K]
  int64_t found = active ? 0 : args.K, first_hit = -1;

  for (int64_t first = 0; first < count; first += tile_size) {
    const int size = static_cast<int>(min(count - first, static_cast<int64_t>(tile_size)));
    const int padded = (size + 31) / 32 * 32;
    load_tile(cloud + 3 * first, size, padded, tile);
    __syncthreads();
    for (int step = 0; step < padded && found < args.K; step += 32) {
      const int n = step + static_cast<int>(lane_id());
      const bool hit = squared_distance(query, load_point(tile, n)) < args.sq_radius;
      const unsigned hits = __ballot_sync(kFullWarp, hit);
      if (hits == 0) continue;
      if (found == 0) first_hit = first + step + __ffs(static_cast<int>(hits)) - 1;
      const int64_t slot = found + __popc(hits & ((1u << lane_id()) - 1));
      if (hit && slot < args.K) idx[slot] = first + n;
      found += __popc(hits);
    }
    if (__syncthreads_and(found >= args.K)) break;
  }
  for (int64_t slot = found + lane_id(); slot < args.K; slot += 32) idx[slot] = first_hit;
}

}  // namespace

void ball_query(const BallQueryArgs& args, const BallQueryPlan& plan, const Context& context) {
  if (args.B * args.M == 0) return;
  check_cloud_size(args.N);
  if (plan.warps < 1 || plan.warps > kMaxWarps || plan.tile < kTileStep ||
      plan.tile % kTileStep != 0)
    throw std::invalid_argument("no ball query plan: " + describe(plan));
  const unsigned query_blocks = grid_of(ceil_div(args.M, plan.warps));
  DAPT_LAUNCH(ball_query_kernel, grid_of(args.B * query_blocks), 32 * plan.warps,
              3 * plan.tile * sizeof(float), context.stream, args, query_blocks, plan.tile);
}

void ball_query(const BallQueryArgs& args, const Context& context) {
  ball_query(args, plan_ball_query(args.B, args.M, args.N, current_device()), context);
}

}  // namespace dapt::cuda
