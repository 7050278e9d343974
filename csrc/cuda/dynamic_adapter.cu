// The forward of DAPT's adapter on CUDA: a block takes 16 tokens through all steps.
#include "cuda/adapter.cuh"

namespace dapt::cuda {
namespace {

template <class Product>
struct AdapterForward {
  using Sum = typename Product::Sum;
  Adapter<Product> adapter;
  Rows mlp_out, residual, out;  // [tokens, C]
  Rows prompt_sums;             // [tiles, C]: of GELU(a) over a tile's tokens
};

// A warp computes a token's statistics, writes them and its z, and returns its scale.
template <class Product, class Sum = typename Product::Sum>
__device__ __forceinline__ Sum begin_row(const Adapter<Product>& a, int64_t token,
                                         typename Product::Element* to, int own) {
  Norm<Sum> norm{0, 1};
  if (token >= 0 && a.norm_weight.data) {
    Sum sum = 0, sq_sum = 0;
#pragma unroll 4
    for (int c = 4 * lane_id(); c < a.C; c += 128) {
      const Quad<Sum> x = read_quad<Sum>(a.x, token, c);
      sum += (x.at[0] + x.at[1]) + (x.at[2] + x.at[3]);
    }
    norm.mean = warp_sum(sum) / a.C;
#pragma unroll 4
    for (int c = 4 * lane_id(); c < a.C; c += 128) {
      const Quad<Sum> x = read_quad<Sum>(a.x, token, c);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Sum off = c + i < a.C ? x.at[i] - norm.mean : Sum(0);
        sq_sum += off * off;
      }
    }
    norm.rstd = Sum(1) / sqrt(warp_sum(sq_sum) / a.C + a.eps);
  }
  const Sum dot = fill_row(a, token, norm, to, own);
  Sum scale = a.static_scale;
  if (a.scale_weight.data) {
    scale = dot + a.scale_bias[own];
    scale = scale < 0 ? Sum(0) : scale;
  }
  if (token >= 0 && lane_id() == 0) {
    Sum* stats = a.stats + 3 * token;
    stats[0] = norm.mean, stats[1] = norm.rstd, stats[2] = scale;
  }
  return scale;
}

// Parallel over tiles of 16 tokens; within a block, a warp per token, then a warp per 16 columns of
// a product. With kMany, each cloud chooses its adapter.
template <class Product, bool kMany>
__global__ void __launch_bounds__(kAdapterThreads,
                                  sizeof(typename Product::Sum) == 8 ? 1 : (kMany ? 2 : 3))
    adapter_kernel(const AdapterForward<Product> args) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  const Adapter<Product>& a = args.adapter;
  __shared__ Sum scales[kTileRows];
  DAPT_DYNAMIC_SHARED(Element, wide);                       // [16, C]: z
  Element* narrow = wide + kTileRows * a.plan.wide_stride;  // [16, r]: the active hidden units
  const Tile tile(a, blockIdx.x);
  const int own = kMany ? a.adapter_of(tile.cloud) : 0;

  for (int row = warp_id(); row < kTileRows; row += kAdapterWarps) {
    const int64_t token = row < tile.count ? tile.first + row : -1;
    const Sum scale = begin_row(a, token, wide + row * a.plan.wide_stride, own);
    if (lane_id() == 0) scales[row] = scale;
  }
  __syncthreads();

  const int g = lane_id() / 4, t = lane_id() % 4;
  for (int n = warp_id(); n < a.narrow_tiles(); n += kAdapterWarps) {
    Sum sums[8] = {};
    a.multiply_wide(sums, wide, a.down + own * a.packed_down, n);
    const int j = n * kTileColumns + 4 * t;
    const Quad<Sum> bias = read_quad<Sum>(a.down_bias, own, j);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + 8 * half;
      Quad<Sum> units;
#pragma unroll
      for (int i = 0; i < 4; ++i) units.at[i] = sums[4 * half + i];
      if (row < tile.count) write_quad(a.hidden, tile.first + row, j, units);
      const Quad<Sum> kept = draw_dropout(a, tile.first + row, j);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Sum hidden = static_cast<Sum>(static_cast<Element>(units.at[i]));  // as it is stored
        units.at[i] = activate(a.activation, hidden + bias.at[i]).value * kept.at[i];
      }
      store_factors<Product>(narrow + row * a.plan.narrow_stride + j, units);
    }
  }
  __syncthreads();

  const Sum path = a.path_factor ? a.path_factor[tile.cloud] : Sum(1);
  for (int n = warp_id(); n < a.wide_tiles(); n += kAdapterWarps) {
    Sum sums[8] = {};
    a.multiply_narrow(sums, narrow, a.up + own * a.packed_up, n);
    const int c = n * kTileColumns + 4 * t;
    const Quad<Sum> bias = read_quad<Sum>(a.up_bias, own, c);
    Quad<Sum> prompt{};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + 8 * half;
      if (row >= tile.count) break;
      const Sum scale = scales[row];
      const Quad<Sum> mlp = read_quad<Sum>(args.mlp_out, tile.first + row, c);
      Quad<Sum> out = read_quad<Sum>(args.residual, tile.first + row, c);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Sum adapted = scale * (sums[4 * half + i] + bias.at[i]);
        out.at[i] += path * (mlp.at[i] + adapted);
        if (args.prompt_sums.data) prompt.at[i] += gelu(adapted).value;
      }
      write_quad(args.out, tile.first + row, c, out);
    }
    if (args.prompt_sums.data) {
      prompt = sum_over_rows(prompt);
      if (g == 0) write_quad(args.prompt_sums, blockIdx.x, c, prompt);
    }
  }
}

// Parallel over clouds and channels.
template <class Sum>
__global__ void __launch_bounds__(kAdapterThreads)
    prompt_kernel(const Rows sums, const Rows prompt, int64_t clouds, int64_t cloud_tiles,
                  int64_t tokens) {
  const int quads = (prompt.cols + 3) / 4;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kAdapterThreads + threadIdx.x;
  const int64_t cloud = i / quads;
  const int c = static_cast<int>(i % quads) * 4;
  if (cloud >= clouds) return;
  Quad<Sum> mean{};
#pragma unroll 4
  for (int64_t tile = 0; tile < cloud_tiles; ++tile) {
    const Quad<Sum> sum = read_quad<Sum>(sums, cloud * cloud_tiles + tile, c);
#pragma unroll
    for (int j = 0; j < 4; ++j) mean.at[j] += sum.at[j];
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) mean.at[j] /= static_cast<Sum>(tokens);
  write_quad(prompt, cloud, c, mean);
}

template <class Product>
void adapt(const DynamicAdapterArgs& args, const AdapterPlan& plan, const Context& context) {
  using Sum = typename Product::Sum;
  AdapterForward<Product> forward{.adapter = Adapter<Product>(args, plan),
                                  .mlp_out = Rows(args.mlp_dtype, args.mlp_out, args.C),
                                  .residual = Rows(args.residual_dtype, args.residual, args.C),
                                  .out = Rows(args.out_dtype, args.out, args.C)};
  if (args.prompt_mean) {
    const size_t bytes = plan.tiles * args.C * sizeof(Sum);
    forward.prompt_sums = Rows(real_of<Sum>(), context.scratch(bytes), args.C);
  }
  if (plan.tiles > 0) {
    WeightPacker<Product> packer(product_shape(args.compute, args.tf32), args.weight_dtype,
                                 context);
    forward.adapter.down =
        packer.add(args.down_weight, args.r, args.C, false, forward.adapter.count);
    forward.adapter.up = packer.add(args.up_weight, args.C, args.r, false, forward.adapter.count);
    packer.launch();
    if (args.adapters) {
      DAPT_LAUNCH((adapter_kernel<Product, true>), grid_of(plan.tiles), kAdapterThreads,
                  plan.forward_bytes, context.stream, forward);
    } else {
      DAPT_LAUNCH((adapter_kernel<Product, false>), grid_of(plan.tiles), kAdapterThreads,
                  plan.forward_bytes, context.stream, forward);
    }
  }
  if (args.prompt_mean) {
    const int64_t threads = args.B * ceil_div(args.C, 4);
    DAPT_LAUNCH((prompt_kernel<Sum>), grid_of(ceil_div(threads, kAdapterThreads)), kAdapterThreads,
                0, context.stream, forward.prompt_sums,
                Rows(args.out_dtype, args.prompt_mean, args.C), args.B, plan.cloud_tiles, args.T);
  }
}

}  // namespace

void dynamic_adapter(const DynamicAdapterArgs& args, const AdapterPlan& plan,
                     const Context& context) {
  if (args.B == 0) return;
  with_product(args.compute, args.tf32,
               [&](auto product) { adapt<decltype(product)>(args, plan, context); });
}

void dynamic_adapter(const DynamicAdapterArgs& args, const Context& context) {
  dynamic_adapter(args, plan_adapter(args, current_device()), context);
}

}  // namespace dapt::cuda
