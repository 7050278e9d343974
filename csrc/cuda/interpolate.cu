// Weighted sums of neighbors' values on CUDA.
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/plan_rows.h"
#include "cuda/rows.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

template <int kFloats>
struct alignas(4 * kFloats) Floats {
  float at[kFloats];
};

// Parallel over output rows and their channels: a team of threads per row. Each product and sum is
// rounded separately, in the CPU kernel's order.
template <int kFloats>
__global__ void __launch_bounds__(kRowThreads)
    interpolate_kernel(const InterpolateArgs args, int team, unsigned row_blocks) {
  const TeamRow own(row_blocks, kRowThreads / team, team);
  if (own.row >= args.M) return;
  const int64_t row = own.b * args.M + own.row;
  const float* values = args.values + own.b * args.N * args.C;  // [N, C]
  const int64_t* idx = args.idx + row * args.k;                 // [k]
  const float* weights = args.weights + row * args.k;           // [k]
  for (int64_t c = own.rank * kFloats; c < args.C; c += team * kFloats) {
    Floats<kFloats> sum{};
#pragma unroll 4
    for (int64_t j = 0; j < args.k; ++j) {
      const int64_t n = idx[j];
      if (n < 0 || n >= args.N) continue;
      const float weight = weights[j];
      const auto value = *reinterpret_cast<const Floats<kFloats>*>(values + n * args.C + c);
#pragma unroll
      for (int i = 0; i < kFloats; ++i)
        sum.at[i] = __fadd_rn(sum.at[i], __fmul_rn(weight, value.at[i]));
    }
    *reinterpret_cast<Floats<kFloats>*>(args.out + row * args.C + c) = sum;
  }
}

}  // namespace

void interpolate(const InterpolateArgs& args, const Context& context) {
  if (args.B * args.M * args.C == 0) return;
  const RowPlan plan = plan_rows(args.C * sizeof(float), 16, {args.values, args.out});
  const unsigned row_blocks = grid_of(ceil_div(args.M, kRowThreads / plan.team));
  dispatch<4, 8, 16>("bytes at once", plan.vector, [&](auto vector) {
    DAPT_LAUNCH((interpolate_kernel<vector() / 4>), grid_of(args.B * row_blocks), kRowThreads, 0,
                context.stream, args, plan.team, row_blocks);
  });
}

}  // namespace dapt::cuda
