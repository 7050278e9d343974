// Nearest points between two clouds on CUDA: kNN with k = 1, in both directions.
#include "cuda/plan_knn.h"
#include "cuda/plan_rows.h"
#include "cuda/points.cuh"

namespace dapt::cuda {
namespace {

// Parallel over the points of B clouds: a point past the length of its cloud gets no neighbor.
__global__ void __launch_bounds__(kRowThreads)
    clear_past_kernel(const int64_t* lengths, int64_t B, int64_t N, float* sq_dist, int64_t* idx) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= B * N || row % N < length_of(lengths, row / N, N)) return;
  sq_dist[row] = 0;
  idx[row] = -1;
}

struct Clouds {
  const float* points;     // [B, N, 3]
  const int64_t* lengths;  // [B] or null
  int64_t N;
};

void find_nearest(const Clouds& of, const Clouds& in, int64_t B, float* sq_dist, int64_t* idx,
                  const Context& context) {
  knn({.queries = of.points,
       .points = in.points,
       .lengths = in.lengths,
       .sq_dist = sq_dist,
       .idx = idx,
       .patches = nullptr,
       .B = B,
       .M = of.N,
       .N = in.N,
       .k = 1},
      context);
  if (of.lengths)
    DAPT_LAUNCH(clear_past_kernel, grid_of(ceil_div(B * of.N, kRowThreads)), kRowThreads, 0,
                context.stream, of.lengths, B, of.N, sq_dist, idx);
}

}  // namespace

void chamfer(const ChamferArgs& args, const Context& context) {
  const Clouds a{args.a, args.a_lengths, args.N}, b{args.b, args.b_lengths, args.M};
  find_nearest(a, b, args.B, args.sq_ab, args.idx_ab, context);
  find_nearest(b, a, args.B, args.sq_ba, args.idx_ba, context);
}

}  // namespace dapt::cuda
