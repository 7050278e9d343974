// The frozen mini-PointNet on CUDA: a block takes its patches through all layers in shared memory.
#include "cuda/pack_weights.cuh"
#include "cuda/plan_encoder.h"
#include "cuda/quads.cuh"

namespace dapt::cuda {
namespace {

constexpr int kPair = 2;  // tiles of 16 columns that share a left factor in registers

/// Maps numbers to integers in the same order, NaN above all, for atomicMax.
__device__ __forceinline__ int order_of(float value) {
  const int bits = __float_as_int(value);
  return value != value ? 0x7fffffff : bits ^ (bits >> 31 & 0x7fffffff);
}
__device__ __forceinline__ long long order_of(double value) {
  const long long bits = __double_as_longlong(value);
  return value != value ? 0x7fffffffffffffff : bits ^ (bits >> 63 & 0x7fffffffffffffff);
}
__device__ __forceinline__ float from_order(int order) {
  return __int_as_float(order ^ (order >> 31 & 0x7fffffff));
}
__device__ __forceinline__ double from_order(long long order) {
  return __longlong_as_double(order ^ (order >> 63 & 0x7fffffffffffffff));
}
template <class Sum>
using Order = decltype(order_of(Sum()));

// Strict multiply-adds need twice the registers and so run half the threads: a warp loads the next
// block of the weight while it multiplies one. With tensor cores, other warps fill that time.
template <class Product>
constexpr bool kAhead = Product::kBlock == Product::kVector;
template <class Product>
constexpr int kThreads = kAhead<Product> ? 256 : 512;

template <class Product>
struct Encoder {
  using Element = typename Product::Element;
  EncoderPlan plan;
  int64_t P, K;
  Rows points, tokens;                                                // [P * K, D], [P, C]
  Rows bias1, bias3, bias4;                                           // [1, width]
  const Element *conv1, *conv2, *conv3_global, *conv3_local, *conv4;  // packed
  int input_blocks, first_blocks, middle_blocks, last_blocks;         // of inner dimensions
  int first_tiles;                                                    // of 16 columns
};

/// Calls `done(first row tile, how many, column, sums)` for every 16 columns of rows · packed.
/// Units of up to kRowTiles row tiles and two column tiles go to the warps in turn.
template <class Product, class Done>
__device__ __forceinline__ void multiply_rows(const typename Product::Element* rows, int stride,
                                              int row_tiles,
                                              const typename Product::Element* packed,
                                              int column_tiles, int blocks, const Done& done) {
  constexpr int kUnit = kTileColumns * Product::kBlock, kRowTiles = Product::kRowTiles;
  const int groups = (row_tiles + kRowTiles - 1) / kRowTiles;
  const int units = (column_tiles + kPair - 1) / kPair * groups;
  for (int unit = warp_id(); unit < units; unit += kThreads<Product> / 32) {
    const int row_tile = unit % groups * kRowTiles, tiles = min(kRowTiles, row_tiles - row_tile);
    const int column_tile = unit / groups * kPair;
    const bool paired = column_tile + 1 < column_tiles;
    const auto* left_rows = rows + row_tile * kTileRows * stride;
    const auto* right = packed + static_cast<int64_t>(column_tile) * blocks * kUnit;
    typename Product::Sum sums[kPair][kRowTiles][8] = {};
    const int second = (paired ? blocks : 0) * kUnit;
    auto right0 = Product::load_right(right), right1 = Product::load_right(right + second);
#pragma unroll(kAhead<Product> ? 2 : 1)
    for (int block = 0; block < blocks; ++block) {
      const auto now0 = right0, now1 = right1;
      const auto load_next = [&, next = right + min(block + 1, blocks - 1) * kUnit] {
        right0 = Product::load_right(next), right1 = Product::load_right(next + second);
      };
      if (kAhead<Product>) load_next();
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        if (i >= tiles) break;
        const auto left = Product::load_left(
            left_rows + i * kTileRows * stride + block * Product::kBlock, stride);
        Product::multiply(sums[0][i], left, now0);
        Product::multiply(sums[1][i], left, now1);
      }
      if (!kAhead<Product>) load_next();
    }
    const int c = column_tile * kTileColumns + 4 * (lane_id() % 4);
    done(row_tile, tiles, c, sums[0]);
    if (paired) done(row_tile, tiles, c + kTileColumns, sums[1]);
  }
}

/// Stores `value(row, i, sum)` of every sum as the next layer's left factor.
template <class Product, int kTiles, class Value>
__device__ __forceinline__ void store_layer(typename Product::Element* layer, int stride,
                                            int row_tile, int tiles, int c,
                                            const typename Product::Sum (&sums)[kTiles][8],
                                            const Value& value) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile >= tiles) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (row_tile + tile) * kTileRows + half * 8 + lane_id() / 4;
      StoredQuad<typename Product::Element> quad;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        quad.at[i] = Product::factor(value(row, i, sums[tile][4 * half + i]));
      *reinterpret_cast<StoredQuad<typename Product::Element>*>(layer + row * stride + c) = quad;
    }
  }
}

/// Raises each patch's maxima [patches, width] to the rows' values; ignores rows from `valid` on.
template <int kTiles, class Sum>
__device__ __forceinline__ void raise_maxima(Order<Sum>* maxima, int width, int K, int valid,
                                             int row_tile, int tiles, int c,
                                             const Sum (&sums)[kTiles][8]) {
  Order<Sum> best[4];
  int best_patch = -1;
  const auto flush = [&] {
    if (best_patch < 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2)
        best[i] = max(best[i], __shfl_xor_sync(kFullWarp, best[i], distance));
      if (lane_id() < 4) atomicMax(&maxima[best_patch * width + c + i], best[i]);
    }
  };
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile >= tiles) break;
    const int first = (row_tile + tile) * kTileRows, last = first + kTileRows - 1;
    if (last < valid && first / K == last / K) {  // all rows belong to one patch
      if (best_patch != first / K) {
        flush();
        best_patch = first / K;
#pragma unroll
        for (int i = 0; i < 4; ++i) best[i] = order_of(sums[tile][i]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        best[i] = max(best[i], max(order_of(sums[tile][i]), order_of(sums[tile][4 + i])));
      continue;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + half * 8 + lane_id() / 4;
      if (row >= valid) break;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        atomicMax(&maxima[row / K * width + c + i], order_of(sums[tile][4 * half + i]));
    }
  }
  flush();
}

template <class Sum>
__device__ __forceinline__ Sum clipped(Sum value) {
  return value < 0 ? Sum(0) : value;  // NaN stays NaN
}

// Parallel over groups of patches; within a block, a warp per 64 points and 32 channels of a layer.
template <class Product>
__global__ void __launch_bounds__(kThreads<Product>, 1)
    patch_encoder_kernel(const Encoder<Product> a) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  constexpr int kTiles = Product::kRowTiles;
  const EncoderPlan& plan = a.plan;
  DAPT_DYNAMIC_SHARED(char, shared);
  auto* const input = reinterpret_cast<Element*>(shared);                   // [rows, D]
  auto* const patch_rows = reinterpret_cast<Element*>(shared);              // [16, middle]
  auto* const layer3 = reinterpret_cast<Element*>(shared);                  // [rows, last]
  auto* const layer1 = reinterpret_cast<Element*>(shared + plan.first_at);  // [rows, first]
  auto* const whole3 = reinterpret_cast<Sum*>(shared + plan.whole_at);      // [patches, last]
  auto* const maxima = reinterpret_cast<Order<Sum>*>(shared + plan.maxima_at);

  const int64_t patch = static_cast<int64_t>(blockIdx.x) * plan.patches;
  const int patches = static_cast<int>(min(a.P - patch, static_cast<int64_t>(plan.patches)));
  const int K = static_cast<int>(a.K), points = patches * K;

  const auto clear_maxima = [&](int width) {
    const Order<Sum> lowest = ~order_of(Sum(__uint_as_float(0x7fffffff)));
    for (int i = threadIdx.x; i < patches * width; i += kThreads<Product>) maxima[i] = lowest;
  };
  // The first layer of the points starting at `begin`.
  const auto encode_points = [&](int begin, int valid, int row_tiles) {
    const int width = a.input_blocks * Product::kBlock;
    for (int i = threadIdx.x; i < row_tiles * kTileRows * width; i += kThreads<Product>) {
      const int row = i / width, d = i % width;
      const bool inside = row < valid && d < a.points.cols;
      const int64_t from = (patch * K + begin + row) * a.points.cols + d;
      input[row * plan.input_stride + d] = Product::factor(
          inside ? static_cast<Sum>(static_cast<const Element*>(a.points.data)[from]) : Sum(0));
    }
    __syncthreads();
    multiply_rows<Product>(
        input, plan.input_stride, row_tiles, a.conv1, a.first_tiles, a.input_blocks,
        [&](int row_tile, int tiles, int c, const Sum(&sums)[kTiles][8]) {
          const Quad<Sum> bias = read_quad<Sum>(a.bias1, 0, c);
          store_layer<Product>(layer1, plan.first_stride, row_tile, tiles, c, sums,
                               [&](int, int i, Sum sum) { return clipped(sum + bias.at[i]); });
        });
    __syncthreads();
  };

  clear_maxima(plan.middle_width);
  for (int chunk = 0; chunk < plan.chunks; ++chunk) {
    const int begin = chunk * plan.rows, valid = min(points - begin, plan.rows);
    const int row_tiles = (valid + kTileRows - 1) / kTileRows;
    encode_points(begin, valid, row_tiles);
    multiply_rows<Product>(
        layer1, plan.first_stride, row_tiles, a.conv2, plan.middle_width / kTileColumns,
        a.first_blocks, [&](int row_tile, int tiles, int c, const Sum(&sums)[kTiles][8]) {
          raise_maxima(maxima, plan.middle_width, K, valid, row_tile, tiles, c, sums);
        });
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kTileRows * plan.middle_width; i += kThreads<Product>) {
    const int row = i / plan.middle_width, c = i % plan.middle_width;
    patch_rows[row * plan.middle_stride + c] =
        Product::factor(row < patches ? from_order(maxima[row * plan.middle_width + c]) : Sum(0));
  }
  __syncthreads();
  clear_maxima(plan.token_width);
  multiply_rows<Product>(
      patch_rows, plan.middle_stride, 1, a.conv3_global, plan.last_width / kTileColumns,
      a.middle_blocks, [&](int, int, int c, const Sum(&sums)[kTiles][8]) {
        const Quad<Sum> bias = read_quad<Sum>(a.bias3, 0, c);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int row = i / 4 * 8 + lane_id() / 4;
          if (row < patches)
            whole3[row * plan.last_width + c + i % 4] = sums[0][i] + bias.at[i % 4];
        }
      });
  __syncthreads();

  for (int chunk = 0; chunk < plan.chunks; ++chunk) {
    const int begin = chunk * plan.rows, valid = min(points - begin, plan.rows);
    const int row_tiles = (valid + kTileRows - 1) / kTileRows;
    if (plan.chunks > 1) encode_points(begin, valid, row_tiles);
    multiply_rows<Product>(
        layer1, plan.first_stride, row_tiles, a.conv3_local, plan.last_width / kTileColumns,
        a.first_blocks, [&](int row_tile, int tiles, int c, const Sum(&sums)[kTiles][8]) {
          store_layer<Product>(layer3, plan.last_stride, row_tile, tiles, c, sums,
                               [&](int row, int i, Sum sum) {
                                 const int own = min(row / K, patches - 1);
                                 return clipped(sum + whole3[own * plan.last_width + c + i]);
                               });
        });
    __syncthreads();
    multiply_rows<Product>(
        layer3, plan.last_stride, row_tiles, a.conv4, plan.token_width / kTileColumns,
        a.last_blocks, [&](int row_tile, int tiles, int c, const Sum(&sums)[kTiles][8]) {
          raise_maxima(maxima, plan.token_width, K, valid, row_tile, tiles, c, sums);
        });
    __syncthreads();
  }

  const int quads = plan.token_width / 4;
  for (int i = threadIdx.x; i < patches * quads; i += kThreads<Product>) {
    const int row = i / quads, c = i % quads * 4;
    Quad<Sum> token = read_quad<Sum>(a.bias4, 0, c);
#pragma unroll
    for (int j = 0; j < 4; ++j) token.at[j] += from_order(maxima[row * plan.token_width + c + j]);
    write_quad(a.tokens, patch + row, c, token);
  }
}

template <class Product>
void encode(const PatchEncoderArgs& args, const EncoderPlan& plan, const Context& context) {
  const ProductShape shape = product_shape(args.compute, args.tf32);
  const Real sum = real_of<typename Product::Sum>();
  const auto blocks = [&](int64_t inner) {
    return static_cast<int>(padded_width(inner, shape) / shape.block);
  };
  WeightPacker<Product> packer(shape, args.weight_dtype, context);
  const Encoder<Product> encoder{
      .plan = plan,
      .P = args.P,
      .K = args.K,
      .points = Rows(args.compute, args.patches, args.D),
      .tokens = Rows(args.compute, args.tokens, args.C),
      .bias1 = Rows(sum, args.bias1, args.first),
      .bias3 = Rows(sum, args.bias3, args.last),
      .bias4 = Rows(sum, args.bias4, args.C),
      .conv1 = packer.add(args.conv1, args.first, args.D),
      .conv2 = packer.add(args.conv2, args.middle, args.first),
      .conv3_global = packer.add(args.conv3_global, args.last, args.middle),
      .conv3_local = packer.add(args.conv3_local, args.last, args.first),
      .conv4 = packer.add(args.conv4, args.C, args.last),
      .input_blocks = blocks(args.D),
      .first_blocks = blocks(args.first),
      .middle_blocks = blocks(args.middle),
      .last_blocks = blocks(args.last),
      .first_tiles = static_cast<int>(padded_width(args.first, shape) / kTileColumns)};
  packer.launch();
  DAPT_LAUNCH((patch_encoder_kernel<Product>), grid_of(ceil_div(args.P, plan.patches)),
              kThreads<Product>, plan.shared_bytes, context.stream, encoder);
}

}  // namespace

void patch_encoder(const PatchEncoderArgs& args, const EncoderPlan& plan, const Context& context) {
  check_cloud_size(args.K);
  with_product(args.compute, args.tf32,
               [&](auto product) { encode<decltype(product)>(args, plan, context); });
}

void patch_encoder(const PatchEncoderArgs& args, const Context& context) {
  patch_encoder(args, plan_encoder(args, current_device()), context);
}

}  // namespace dapt::cuda
