// Folding a scale and a shift into a frozen layer, and the sums over tokens for their gradients, on
// CUDA.
#include <algorithm>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/plan_rows.h"
#include "cuda/quads.cuh"
#include "cuda/sum_rows.cuh"
#include "cuda/warp.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

template <class Sum>
struct Folding {
  Rows weight, folded;
  const Sum *bias, *scale, *shift;
  Rows offset;  // [1, C]
  int64_t rows;
};

__host__ __device__ constexpr int64_t quads_of(int64_t columns) {
  return columns > 4 ? (columns + 3) / 4 : 1;  // one even without columns, for the offset
}

// Parallel over rows and groups of four columns; the thread with a row's first columns also
// computes its offset.
template <class Sum>
__global__ void __launch_bounds__(kRowThreads) fold_kernel(const Folding<Sum> layer) {
  const int64_t quads = quads_of(layer.weight.cols);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  const int64_t row = i / quads;
  if (row >= layer.rows) return;
  const int c = 4 * static_cast<int>(i % quads);
  const Sum scale = layer.scale[row];
  Quad<Sum> quad = read_quad<Sum>(layer.weight, row, c);
#pragma unroll
  for (int j = 0; j < 4; ++j) quad.at[j] *= scale;
  write_quad(layer.folded, row, c, quad);
  if (c > 0 || !layer.offset.data) return;
  const Sum shift = layer.shift[row];
  write_one(layer.offset, row, layer.bias ? scale * layer.bias[row] + shift : shift);
}

template <class Sum>
void fold(const ScaleShiftFoldArgs& args, const Context& context) {
  const Folding<Sum> layer{.weight = Rows(args.weight_dtype, args.weight, args.D),
                           .folded = Rows(args.dtype, args.folded, args.D),
                           .bias = static_cast<const Sum*>(args.bias),
                           .scale = static_cast<const Sum*>(args.scale),
                           .shift = static_cast<const Sum*>(args.shift),
                           .offset = Rows(args.dtype, args.offset, args.C),
                           .rows = args.C};
  DAPT_LAUNCH((fold_kernel<Sum>), grid_of(ceil_div(args.C * quads_of(args.D), kRowThreads)),
              kRowThreads, 0, context.stream, layer);
}

template <class Sum>
struct FoldGrad {
  Rows grad_folded, weight;
  const Sum *grad_offset, *bias;
  Sum* grad_scale;
  int64_t rows;
};

// Parallel over rows, one warp each.
template <class Sum>
__global__ void __launch_bounds__(kRowThreads) fold_grad_kernel(const FoldGrad<Sum> layer) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + warp_id();
  if (row >= layer.rows) return;
  Sum sum = 0;
  for (int c = 4 * lane_id(); c < layer.weight.cols; c += 128) {
    const Quad<Sum> grad = read_quad<Sum>(layer.grad_folded, row, c);
    const Quad<Sum> weight = read_quad<Sum>(layer.weight, row, c);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += grad.at[j] * weight.at[j];
  }
  sum = warp_sum(sum);
  if (lane_id() > 0) return;
  layer.grad_scale[row] = layer.bias ? sum + layer.grad_offset[row] * layer.bias[row] : sum;
}

template <class Sum>
void fold_grad(const ScaleShiftFoldGradArgs& args, const Context& context) {
  const FoldGrad<Sum> layer{.grad_folded = Rows(real_of<Sum>(), args.grad_folded, args.D),
                            .weight = Rows(args.weight_dtype, args.weight, args.D),
                            .grad_offset = static_cast<const Sum*>(args.grad_offset),
                            .bias = static_cast<const Sum*>(args.bias),
                            .grad_scale = static_cast<Sum*>(args.grad_scale),
                            .rows = args.C};
  DAPT_LAUNCH((fold_grad_kernel<Sum>), grid_of(ceil_div(args.C, kRowThreads / 32)), kRowThreads, 0,
              context.stream, layer);
}

constexpr int kStripColumns = 128;                // per warp, four per thread
constexpr int kStripWarps = kRowThreads / 32;     // share the tokens of a part
constexpr int64_t kPartTokens = 4 * kStripWarps;  // at least

template <class Sum>
struct Strips {
  Rows grad, output, shift;
  Sum* partials;  // [parts, 2, C]
  int64_t tokens, part_tokens;
};

// Parallel over strips of 128 columns and parts of the tokens. With a dtype known at compile time
// and rows in quads, the rows of four tokens are in flight at a time; `void` accepts any rows.
template <class Stored, class Sum>
__global__ void __launch_bounds__(kRowThreads, 2) sum_tokens_kernel(const Strips<Sum> strips) {
  __shared__ Quad<Sum> sums[2][kStripWarps][32];
  const int C = strips.grad.cols, c = blockIdx.x * kStripColumns + 4 * lane_id();
  const auto read = [&](const Rows& rows, int64_t token) {
    if constexpr (std::is_void_v<Stored>) {
      return read_quad<Sum>(rows, token, c);
    } else {
      return c < C ? read_stored_quad<Stored, Sum>(rows, token, c) : Quad<Sum>{};
    }
  };
  const int64_t begin = blockIdx.y * strips.part_tokens;
  const int64_t end = min(begin + strips.part_tokens, strips.tokens);
  const Quad<Sum> shift = read_quad<Sum>(strips.shift, 0, c);
  Quad<Sum> for_scale{}, for_shift{};
#pragma unroll 4
  for (int64_t token = begin + warp_id(); token < end; token += kStripWarps) {
    const Quad<Sum> dy = read(strips.grad, token), y = read(strips.output, token);
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

/// Calls f with the `Stored` type for sum_tokens_kernel, wrapped in a std::type_identity.
template <class Sum, class Function>
void with_stored(const Strips<Sum>& strips, Real dtype, const Function& f) {
  const bool in_quads = strips.grad.in_quads && strips.output.in_quads;
  if constexpr (sizeof(Sum) == 4) {
    if (in_quads && dtype == Real::f32) return f(std::type_identity<float>());
    if (in_quads && dtype == Real::bf16) return f(std::type_identity<__nv_bfloat16>());
    if (in_quads) return f(std::type_identity<__half>());
  }
  f(std::type_identity<void>());
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
    with_stored<Sum>(strips, args.dtype, [&](auto stored) {
      DAPT_LAUNCH((sum_tokens_kernel<typename decltype(stored)::type, Sum>),
                  dim3(grid_of(columns), static_cast<unsigned>(parts)), kRowThreads, 0,
                  context.stream, strips);
    });
  }
  RowSums<Sum> sums;
  sums.add({strips.partials, static_cast<Sum*>(args.grad_scale),
            static_cast<const Sum*>(args.scale), parts, 2 * C, C,
            static_cast<Sum>(args.least_scale)});
  sums.add({strips.partials + C, static_cast<Sum*>(args.grad_shift), nullptr, parts, 2 * C, C});
  sum_rows(sums, context.stream);
}

}  // namespace

void scale_shift_fold(const ScaleShiftFoldArgs& args, const Context& context) {
  args.weight_dtype == Real::f64 ? fold<double>(args, context) : fold<float>(args, context);
}

void scale_shift_fold_grad(const ScaleShiftFoldGradArgs& args, const Context& context) {
  args.weight_dtype == Real::f64 ? fold_grad<double>(args, context)
                                 : fold_grad<float>(args, context);
}

void scale_shift_grad(const ScaleShiftGradArgs& args, const Context& context) {
  args.dtype == Real::f64 ? sum_tokens<double>(args, context) : sum_tokens<float>(args, context);
}

}  // namespace dapt::cuda
