// Submanifold convolution and the gradient of its weight on CUDA: products of tiles in shared
// memory (mma.cuh), with one factor gathered row by row. Every sum has one owner and a fixed order.
#include <algorithm>

#include "cuda/device.h"
#include "cuda/dispatch.h"
#include "cuda/mma.cuh"
#include "cuda/plan_product.h"
#include "cuda/sum_rows.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 64;   // rows and columns of a block's product
constexpr int kInner = 32;  // elements of the summed dimension at a time
constexpr int kWarpColumns = kTile / 2, kColumnTiles = kWarpColumns / kTileColumns;
constexpr int kAcross = kTile + 8;  // row stride of a factor that is read across (mma.cuh)

/// Row stride of a factor that is read along (mma.cuh).
template <class Product>
constexpr int kAlong = static_cast<int>(row_stride(
    kInner, {sizeof(typename Product::Element), sizeof(typename Product::Sum), Product::kBlock}));

/// Where a warp's 16 rows and 32 columns begin in the tile.
__device__ __forceinline__ int warp_row() { return warp_id() % 4 * kTileRows; }
__device__ __forceinline__ int warp_column() { return warp_id() / 4 * kWarpColumns; }

template <class Product>
using Sums = typename Product::Sum[kColumnTiles][8];

/// Calls f(row, column, sum) for each of a thread's sums; `column_of` maps sum i of a row to one of
/// 16 columns.
template <class Product, class Column, class Function>
__device__ __forceinline__ void each_sum(const Sums<Product>& sums, const Column& column_of,
                                         const Function& f) {
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 8; ++i)
      f(warp_row() + i / 4 * 8 + static_cast<int>(lane_id()) / 4,
        warp_column() + tile * kTileColumns + column_of(i % 4), sums[tile][i]);
}

/// The column of sum i if the right factor was packed.
__device__ __forceinline__ int column_packed(int i) {
  return 4 * (static_cast<int>(lane_id()) % 4) + i;
}

template <class Product>
__device__ __forceinline__ typename Product::Element factor_or_zero(
    bool inside, const typename Product::Element* value) {
  using Sum = typename Product::Sum;
  return Product::factor(inside ? static_cast<Sum>(*value) : Sum(0));
}

// Parallel over tiles of 64 rows and 64 output channels.
template <class Product>
__global__ void __launch_bounds__(kThreads, sizeof(typename Product::Sum) == 8 ? 1 : 2)
    submanifold_conv_kernel(const SubmanifoldConvArgs args, unsigned column_blocks) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  constexpr int kStride = kAlong<Product>, kBlocks = kInner / Product::kBlock;
  constexpr int kUnit = kTileColumns * Product::kBlock;     // of a packed factor
  __shared__ __align__(128) Element left[kTile * kStride];  // [rows, kInner]
  __shared__ __align__(128) Element right[kTile * kInner];  // columns x kInner, packed
  __shared__ int64_t sources[kTile];
  const auto* x = static_cast<const Element*>(args.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / column_blocks) * kTile;
  const int64_t first_d = static_cast<int64_t>(blockIdx.x % column_blocks) * kTile;
  Sums<Product> sums = {};

  for (int64_t tap = 0; tap < args.taps; ++tap) {
    int64_t source = -1;
    if (threadIdx.x < kTile && first_row + threadIdx.x < args.M)
      source = args.neighbors[(first_row + threadIdx.x) * args.taps + tap];
    const bool is_one = source >= 0 && source < args.M;
    if (threadIdx.x < kTile) sources[threadIdx.x] = is_one ? source : -1;
    if (!__syncthreads_or(is_one)) continue;
    const auto* weight = static_cast<const Element*>(args.weight) + tap * args.weight_tap;
    for (int64_t first_c = 0; first_c < args.C; first_c += kInner) {
      for (int i = threadIdx.x; i < kTile * kInner; i += kThreads) {
        const int row = i / kInner, k = i % kInner;
        const bool inside = sources[row] >= 0 && first_c + k < args.C;
        left[row * kStride + k] =
            factor_or_zero<Product>(inside, x + sources[row] * args.C + first_c + k);
      }
      for (int i = threadIdx.x; i < kTile * kInner; i += kThreads) {
        const int2 place = Product::packed_from(i % kUnit);
        const int64_t d = first_d + i / kUnit / kBlocks * kTileColumns + place.x;
        const int64_t c = first_c + i / kUnit % kBlocks * Product::kBlock + place.y;
        right[i] = factor_or_zero<Product>(c < args.C && d < args.D,
                                           weight + d * args.weight_d + c * args.weight_c);
      }
      __syncthreads();
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const auto rows =
            Product::load_left(left + warp_row() * kStride + block * Product::kBlock, kStride);
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile) {
          const int column_tile = warp_column() / kTileColumns + tile;
          const Element* columns = right + (column_tile * kBlocks + block) * kUnit;
          Product::multiply(sums[tile], rows, Product::load_right(columns));
        }
      }
      __syncthreads();
    }
  }

  const auto* bias = static_cast<const Element*>(args.bias);
  auto* out = static_cast<Element*>(args.out);
  each_sum<Product>(sums, column_packed, [&](int row, int column, Sum sum) {
    const int64_t m = first_row + row, d = first_d + column;
    if (m >= args.M || d >= args.D) return;
    out[m * args.D + d] = static_cast<Element>(bias ? sum + static_cast<Sum>(bias[d]) : sum);
  });
}

struct WeightGradParts {
  unsigned d_blocks, c_blocks, row_parts;
  int64_t rows;  // of a part
  void* sums;    // [row_parts, D, taps, C] of Sum
};

// Parallel over taps, tiles of 64 x 64 channels, and parts of the rows.
template <class Product>
__global__ void __launch_bounds__(kThreads)
    submanifold_conv_weight_grad_kernel(const SubmanifoldConvWeightGradArgs args,
                                        const WeightGradParts parts) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  __shared__ __align__(128) Element left[kInner * kAcross];   // [pairs, channels of grad]
  __shared__ __align__(128) Element right[kInner * kAcross];  // [pairs, channels of x]
  __shared__ int64_t rows[kThreads], sources[kThreads];
  __shared__ int of_warps[kWarps];
  const auto* grad = static_cast<const Element*>(args.grad);
  const auto* x = static_cast<const Element*>(args.x);
  int64_t block = blockIdx.x;
  const int64_t first_c = block % parts.c_blocks * kTile;
  block /= parts.c_blocks;
  const int64_t first_d = block % parts.d_blocks * kTile;
  block /= parts.d_blocks;
  const int64_t tap = block % args.taps, part = block / args.taps;
  const int64_t begin = part * parts.rows, end = min(begin + parts.rows, args.M);
  Sums<Product> sums = {};

  for (int64_t window = begin; window < end; window += kThreads) {
    // the rows of this window that have this neighbor, in order
    const int64_t row = window + threadIdx.x;
    const int64_t source = row < end ? args.neighbors[row * args.taps + tap] : -1;
    const bool is_one = source >= 0 && source < args.M;
    const unsigned ones = __ballot_sync(kFullWarp, is_one);
    if (lane_id() == 0) of_warps[warp_id()] = __popc(ones);
    __syncthreads();
    int place = __popc(ones & ((1u << lane_id()) - 1)), pairs = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      if (warp < static_cast<int>(warp_id())) place += of_warps[warp];
      pairs += of_warps[warp];
    }
    if (is_one) rows[place] = row, sources[place] = source;
    __syncthreads();
    for (int first = 0; first < pairs; first += kInner) {
      for (int i = threadIdx.x; i < kInner * kTile; i += kThreads) {
        const int k = i / kTile, column = i % kTile, pair = min(first + k, pairs - 1);
        const int64_t d = first_d + column, c = first_c + column;
        const bool inside = first + k < pairs;
        left[k * kAcross + column] =
            factor_or_zero<Product>(inside && d < args.D, grad + rows[pair] * args.D + d);
        right[k * kAcross + column] =
            factor_or_zero<Product>(inside && c < args.C, x + sources[pair] * args.C + c);
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kInner; k += Product::kBlock) {
        const auto channels = Product::load_left_across(left + k * kAcross + warp_row(), kAcross);
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile) {
          const Element* columns = right + k * kAcross + warp_column() + tile * kTileColumns;
          Product::multiply(sums[tile], channels, Product::load_right_across(columns, kAcross));
        }
      }
      __syncthreads();
    }
  }

  Sum* out = static_cast<Sum*>(parts.sums) + part * args.D * args.taps * args.C;
  each_sum<Product>(sums, column_across, [&](int row, int column, Sum sum) {
    const int64_t d = first_d + row, c = first_c + column;
    if (d < args.D && c < args.C) out[(d * args.taps + tap) * args.C + c] = sum;
  });
}

unsigned tiles_of(int64_t channels) { return grid_of(ceil_div(channels, kTile)); }

template <class Product>
void convolve(const SubmanifoldConvArgs& args, const Context& context) {
  const unsigned column_blocks = tiles_of(args.D);
  DAPT_LAUNCH((submanifold_conv_kernel<Product>),
              grid_of(tiles_of(args.M) * int64_t{column_blocks}), kThreads, 0, context.stream, args,
              column_blocks);
}

template <class Product>
void weight_grad(const SubmanifoldConvWeightGradArgs& args, const Context& context) {
  using Sum = typename Product::Sum;
  constexpr int64_t kFewRows = 2048;
  WeightGradParts parts{.d_blocks = tiles_of(args.D),
                        .c_blocks = tiles_of(args.C),
                        .row_parts = 1,
                        .rows = args.M,
                        .sums = args.grad_weight};
  const int64_t blocks = args.taps * parts.d_blocks * parts.c_blocks;
  const int64_t wanted = ceil_div(4 * current_device().multiprocessors, blocks);
  const int64_t row_parts = std::max<int64_t>(1, std::min(wanted, args.M / kFewRows));
  const int64_t size = args.D * args.taps * args.C;
  if (row_parts > 1) {
    parts.rows = ceil_div(args.M, row_parts);
    parts.row_parts = grid_of(ceil_div(args.M, parts.rows));
    parts.sums = context.scratch(parts.row_parts * size * sizeof(Sum));
  }
  DAPT_LAUNCH((submanifold_conv_weight_grad_kernel<Product>), grid_of(blocks * parts.row_parts),
              kThreads, 0, context.stream, args, parts);
  if (parts.row_parts == 1) return;
  RowSums<Sum> total;
  total.add({static_cast<const Sum*>(parts.sums), static_cast<Sum*>(args.grad_weight), nullptr,
             parts.row_parts, size, size});
  sum_rows(total, context.stream);
}

}  // namespace

void submanifold_conv(const SubmanifoldConvArgs& args, const Context& context) {
  if (args.M * args.D == 0) return;
  with_product(args.dtype, args.tf32,
               [&](auto product) { convolve<decltype(product)>(args, context); });
}

void submanifold_conv_weight_grad(const SubmanifoldConvWeightGradArgs& args,
                                  const Context& context) {
  if (args.D * args.C == 0) return;
  with_product(args.dtype, args.tf32,
               [&](auto product) { weight_grad<decltype(product)>(args, context); });
}

}  // namespace dapt::cuda
