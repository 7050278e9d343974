// Sums over tokens for the gradients of a scale and a shift on CUDA.
#include <algorithm>

#include "cuda/device.h"
#include "cuda/plan_rows.h"
#include "cuda/quads.cuh"
#include "cuda/sum_rows.cuh"
#include "cuda/warp.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

constexpr int kStripColumns = 128;                // of a warp, four a thread
constexpr int kStripWarps = kRowThreads / 32;     // share the tokens of a part
constexpr int64_t kPartTokens = 4 * kStripWarps;  // at least

template <class Sum>
struct Strips {
  Rows grad, output, shift;
  Sum* partials;  // [parts, 2, C]
  int64_t tokens, part_tokens;
};

// Parallel over strips of 128 columns and parts of the tokens.
template <class Sum>
__global__ void __launch_bounds__(kRowThreads) sum_tokens_kernel(const Strips<Sum> strips) {
  __shared__ Quad<Sum> sums[2][kStripWarps][32];
  const int C = strips.grad.cols, c = blockIdx.x * kStripColumns + 4 * lane_id();
  const int64_t begin = blockIdx.y * strips.part_tokens;
  const int64_t end = min(begin + strips.part_tokens, strips.tokens);
  const Quad<Sum> shift = read_quad<Sum>(strips.shift, 0, c);
  Quad<Sum> for_scale{}, for_shift{};
#pragma unroll 4
  for (int64_t token = begin + warp_id(); token < end; token += kStripWarps) {
    const Quad<Sum> dy = read_quad<Sum>(strips.grad, token, c);
    const Quad<Sum> y = read_quad<Sum>(strips.output, token, c);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      for_scale.at[i] += dy.at[i] * (y.at[i] - shift.at[i]);
      for_shift.at[i] += dy.at[i];
    }
  }
  sums[0][warp_id()][lane_id()] = for_scale;
  sums[1][warp_id()][lane_id()] = for_shift;
  __syncthreads();
  if (warp_id() > 1) return;
  Quad<Sum> sum = sums[warp_id()][0][lane_id()];
#pragma unroll
  for (int other = 1; other < kStripWarps; ++other)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.at[i] += sums[warp_id()][other][lane_id()].at[i];
  Sum* to = strips.partials + (2 * blockIdx.y + warp_id()) * static_cast<int64_t>(C);  // [C]
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (c + i < C) to[c + i] = sum.at[i];
}

template <class Sum>
void sum_tokens(const ScaleShiftGradArgs& args, const Context& context) {
  const int64_t C = args.C, columns = ceil_div(C, kStripColumns);
  // Two blocks per multiprocessor, but at least four tokens per warp.
  const int64_t wanted = ceil_div(2 * current_device().multiprocessors, columns);
  const int64_t most = std::clamp<int64_t>(args.tokens / kPartTokens, 1, wanted);
  const int64_t part_tokens = ceil_div(std::max<int64_t>(args.tokens, 1), most);
  const int64_t parts = ceil_div(args.tokens, part_tokens);
  Strips<Sum> strips{.grad = Rows(args.dtype, args.grad, C),
                     .output = Rows(args.dtype, args.output, C),
                     .shift = Rows(real_of<Sum>(), args.shift, C),
                     .partials = static_cast<Sum*>(context.scratch(parts * 2 * C * sizeof(Sum))),
                     .tokens = args.tokens,
                     .part_tokens = part_tokens};
  if (parts > 0) {
    DAPT_LAUNCH((sum_tokens_kernel<Sum>), dim3(grid_of(columns), static_cast<unsigned>(parts)),
                kRowThreads, 0, context.stream, strips);
  }
  RowSums<Sum> sums;
  sums.add({strips.partials, static_cast<Sum*>(args.grad_scale),
            static_cast<const Sum*>(args.scale), parts, 2 * C, C,
            static_cast<Sum>(args.least_scale)});
  sums.add({strips.partials + C, static_cast<Sum*>(args.grad_shift), nullptr, parts, 2 * C, C});
  sum_rows(sums, context.stream);
}

}  // namespace

void scale_shift_grad(const ScaleShiftGradArgs& args, const Context& context) {
  args.dtype == Real::f64 ? sum_tokens<double>(args, context) : sum_tokens<float>(args, context);
}

}  // namespace dapt::cuda
