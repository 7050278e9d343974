// The first step of the adapter's backward on CUDA. It takes a tile of 16 tokens from the gradients
// of the outputs to those of x and stores the factors of the weights' gradients along the way.
#pragma once

#include "cuda/adapter.cuh"

namespace dapt::cuda {

/// Where the column sums for each parameter begin among a block's partial sums; -1 if its gradient
/// is not wanted.
struct Vectors {
  int norm_weight = -1, norm_bias = -1, down_bias = -1, scale_weight = -1, scale_bias = -1,
      up_bias = -1;
  int size = 0;
};

template <class Product>
struct AdapterBackward {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  Adapter<Product> adapter;
  const Element *down_back, *up_back;  // packed for products with the gradients
  Rows grad_out, grad_prompt;          // [tokens, C], [clouds, C]
  Rows grad_x, grad_mlp_out;           // [tokens, C]
  bool wants_hidden, wants_z, wants_scale;
  // factors of the weights' gradients, or null
  Element* scaled;       // [tokens, r]: scale * active hidden units
  Element* grad_a;       // [tokens, C]
  Element* grad_hidden;  // [tokens, r]
  Vectors vectors;
  Sum* partials;  // [blocks, vectors.size]
};

/// Each warp's part of one sum per row of a tile; a thread contributes to rows g and g + 8.
template <class Sum>
struct RowParts {
  Sum at[kAdapterWarps][kTileRows];

  __device__ __forceinline__ void set(Sum low, Sum high) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      low += __shfl_xor_sync(kFullWarp, low, distance);
      high += __shfl_xor_sync(kFullWarp, high, distance);
    }
    if (lane_id() % 4 != 0) return;
    at[warp_id()][lane_id() / 4] = low;
    at[warp_id()][lane_id() / 4 + 8] = high;
  }
  __device__ __forceinline__ Sum total(int row) const {
    Sum sum = 0;
#pragma unroll
    for (int warp = 0; warp < kAdapterWarps; ++warp) sum += at[warp][row];
    return sum;
  }
};

/// Adds the sums over a tile's rows to those of its block; the same thread always adds a column.
template <class Sum>
__device__ __forceinline__ void add_columns(Sum* block_sums, int cols, int c,
                                            const Quad<Sum>& columns, bool first) {
  const Quad<Sum> sum = sum_over_rows(columns);
  if (lane_id() >= 4) return;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (c + i < cols) block_sums[c + i] = first ? sum.at[i] : block_sums[c + i] + sum.at[i];
}

template <class Element>
__device__ __forceinline__ Element* quad_of(Element* rows, int64_t row, int64_t stride, int c) {
  return rows + row * stride + c;
}

/// What the steps of a tile pass on about its rows, in shared memory.
template <class Sum>
struct BackwardRows {
  Sum means[kTileRows], rstds[kTileRows], scales[kTileRows], grad_scales[kTileRows];
  RowParts<Sum> parts, other_parts;
};

/// The backward of a tile, step by step; in each step a warp computes 16 columns of a product.
template <class Product>
struct BackwardTile {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  const AdapterBackward<Product>& args;
  const Adapter<Product>& a;
  const AdapterPlan& plan;
  const Vectors& vectors;
  BackwardRows<Sum>& rows;
  Element *active, *grad_units;  // [16, r]
  Sum* slopes;                   // [16, r]: d hidden / d unit
  Element* wide;                 // [16, C]: z, then the gradient of a
  Sum* grad_z;                   // [16, C], reuses the memory of `wide`
  Sum* block_sums;               // [vectors.size]
  const Tile tile;
  const bool first;  // tile of its block
  const int g = lane_id() / 4, t = lane_id() % 4;

  __device__ __forceinline__ BackwardTile(const AdapterBackward<Product>& args,
                                          BackwardRows<Sum>& rows, Element* shared, int64_t index,
                                          bool first)
      : args(args),
        a(args.adapter),
        plan(a.plan),
        vectors(args.vectors),
        rows(rows),
        active(shared),
        grad_units(active + kTileRows * plan.narrow_stride),
        slopes(reinterpret_cast<Sum*>(grad_units + kTileRows * plan.narrow_stride)),
        wide(reinterpret_cast<Element*>(slopes + kTileRows * plan.narrow_sum_stride)),
        grad_z(reinterpret_cast<Sum*>(wide)),
        block_sums(args.partials + blockIdx.x * static_cast<int64_t>(vectors.size)),
        tile(a, index),
        first(first) {}

  /// Reads the statistics the forward kept, and recomputes z if it kept no hidden units.
  __device__ __forceinline__ void read() {
    if (threadIdx.x < kTileRows) {
      const bool inside = static_cast<int>(threadIdx.x) < tile.count;
      const Sum* stats = a.stats + 3 * (tile.first + threadIdx.x);
      rows.means[threadIdx.x] = inside ? stats[0] : Sum(0);
      rows.rstds[threadIdx.x] = inside ? stats[1] : Sum(0);
      rows.scales[threadIdx.x] = inside ? stats[2] : Sum(0);
    }
    __syncthreads();
    if (!a.hidden.data) {
      for (int row = warp_id(); row < kTileRows; row += kAdapterWarps)
        fill_row(a, row < tile.count ? tile.first + row : -1,
                 Norm<Sum>{rows.means[row], rows.rstds[row]}, wide + row * plan.wide_stride);
      __syncthreads();
    }
  }

  /// Recomputes the active hidden units, from the units that the forward kept or from z.
  __device__ __forceinline__ void make_hidden_units() {
    for (int n = warp_id(); n < a.narrow_tiles(); n += kAdapterWarps) {
      Sum sums[8] = {};
      if (!a.hidden.data) a.multiply_wide(sums, wide, a.down, n);
      const int j = n * kTileColumns + 4 * t;
      const Quad<Sum> bias = read_quad<Sum>(a.down_bias, 0, j);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = g + 8 * half;
        Quad<Sum> units{}, slope, scaled;
        if (a.hidden.data) {
          if (row < tile.count) units = read_quad<Sum>(a.hidden, tile.first + row, j);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            units.at[i] = static_cast<Sum>(static_cast<Element>(sums[4 * half + i]));
        }
        const Quad<Sum> kept = draw_dropout(a, tile.first + row, j);
        const Sum scale = rows.scales[row];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const ValueSlope<Sum> at = activate(a.activation, units.at[i] + bias.at[i]);
          units.at[i] = at.value * kept.at[i];
          scaled.at[i] = scale * units.at[i];
          slope.at[i] = scale * at.slope * kept.at[i];
        }
        store_factors<Product>(quad_of(active, row, plan.narrow_stride, j), units);
        *reinterpret_cast<Quad<Sum>*>(quad_of(slopes, row, plan.narrow_sum_stride, j)) = slope;
        if (args.scaled && row < tile.count)
          store_factors<Product>(quad_of(args.scaled, tile.first + row, plan.narrow_width, j),
                                 scaled);
      }
    }
    __syncthreads();
  }

  /// From the gradients of the outputs to that of a, the product with `up`.
  __device__ __forceinline__ void outputs_to_a() {
    const Sum path = a.path_factor ? a.path_factor[tile.cloud] : Sum(1);
    const Sum share = Sum(1) / static_cast<Sum>(plan.tokens);
    Sum low = 0, high = 0;  // a row's part of the scale's gradient
    for (int n = warp_id(); n < a.wide_tiles(); n += kAdapterWarps) {
      Sum sums[8] = {};
      if (args.grad_prompt.data) a.multiply_narrow(sums, active, a.up, n);
      const int c = n * kTileColumns + 4 * t;
      const Quad<Sum> bias = read_quad<Sum>(a.up_bias, 0, c);
      const Quad<Sum> prompt = read_quad<Sum>(args.grad_prompt, tile.cloud, c);
      Quad<Sum> columns{};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = g + 8 * half;
        const Sum scale = rows.scales[row];
        Quad<Sum> grad{};
        if (row < tile.count) {
          grad = read_quad<Sum>(args.grad_out, tile.first + row, c);
#pragma unroll
          for (int i = 0; i < 4; ++i) grad.at[i] *= path;
          write_quad(args.grad_mlp_out, tile.first + row, c, grad);
          if (args.grad_prompt.data) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
              grad.at[i] +=
                  gelu(scale * (sums[4 * half + i] + bias.at[i])).slope * prompt.at[i] * share;
          }
          if (args.grad_a)
            store_factors<Product>(quad_of(args.grad_a, tile.first + row, plan.wide_width, c),
                                   grad);
        }
        store_factors<Product>(quad_of(wide, row, plan.wide_stride, c), grad);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          (half ? high : low) += grad.at[i] * bias.at[i];
          columns.at[i] += scale * grad.at[i];
        }
      }
      if (vectors.up_bias >= 0) add_columns(block_sums + vectors.up_bias, a.C, c, columns, first);
    }
    rows.parts.set(low, high);
    __syncthreads();
  }

  /// On to the hidden units and the scale, whose gradient, grad_a · (hidden · up), is computed as
  /// (grad_a · up) · hidden.
  __device__ __forceinline__ void a_to_hidden_units() {
    Sum low = 0, high = 0;
    for (int n = warp_id(); n < a.narrow_tiles(); n += kAdapterWarps) {
      Sum sums[8] = {};
      a.multiply_wide(sums, wide, args.up_back, n);
      const int j = n * kTileColumns + 4 * t;
      Quad<Sum> columns{};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = g + 8 * half;
        const auto unit = *reinterpret_cast<const StoredQuad<Element>*>(
            quad_of(active, row, plan.narrow_stride, j));
        Quad<Sum> grad =
            *reinterpret_cast<const Quad<Sum>*>(quad_of(slopes, row, plan.narrow_sum_stride, j));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          (half ? high : low) += static_cast<Sum>(unit.at[i]) * sums[4 * half + i];
          grad.at[i] *= sums[4 * half + i];
          columns.at[i] += grad.at[i];
        }
        store_factors<Product>(quad_of(grad_units, row, plan.narrow_stride, j), grad);
        if (args.grad_hidden && row < tile.count)
          store_factors<Product>(quad_of(args.grad_hidden, tile.first + row, plan.narrow_width, j),
                                 grad);
      }
      if (vectors.down_bias >= 0)
        add_columns(block_sums + vectors.down_bias, a.r, j, columns, first);
    }
    rows.other_parts.set(low, high);
    __syncthreads();
    if (threadIdx.x < kTileRows) {
      const bool counts = args.wants_scale && rows.scales[threadIdx.x] > 0;
      rows.grad_scales[threadIdx.x] =
          counts ? rows.parts.total(threadIdx.x) + rows.other_parts.total(threadIdx.x) : Sum(0);
    }
    __syncthreads();
    if (vectors.scale_bias >= 0 && threadIdx.x == 0) {
      Sum sum = first ? Sum(0) : block_sums[vectors.scale_bias];
      for (int row = 0; row < kTileRows; ++row) sum += rows.grad_scales[row];
      block_sums[vectors.scale_bias] = sum;
    }
  }

  /// On to z, which is x if there is no norm; otherwise on through the norm.
  __device__ __forceinline__ void hidden_units_to_x() {
    const bool through_norm = args.grad_x.data && a.norm_weight.data;
    Sum low = 0, high = 0, low_tilt = 0, high_tilt = 0;
    for (int n = warp_id(); n < a.wide_tiles(); n += kAdapterWarps) {
      Sum sums[8] = {};
      if (args.wants_z) a.multiply_narrow(sums, grad_units, args.down_back, n);
      const int c = n * kTileColumns + 4 * t;
      const Quad<Sum> weight = read_quad<Sum>(a.norm_weight, 0, c);
      const Quad<Sum> norm_bias = read_quad<Sum>(a.norm_bias, 0, c);
      const Quad<Sum> scale_weight = read_quad<Sum>(a.scale_weight, 0, c);
      Quad<Sum> for_weight{}, for_bias{}, for_scale{};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = g + 8 * half;
        if (row >= tile.count) break;
        const Sum grad_scale = rows.grad_scales[row];
        const Quad<Sum> x = read_quad<Sum>(a.x, tile.first + row, c);
        Quad<Sum> grad;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Sum x_hat = (x.at[i] - rows.means[row]) * rows.rstds[row];
          const Sum z = a.norm_weight.data ? x_hat * weight.at[i] + norm_bias.at[i] : x.at[i];
          grad.at[i] = sums[4 * half + i] + grad_scale * scale_weight.at[i];
          for_weight.at[i] += grad.at[i] * x_hat;
          for_bias.at[i] += grad.at[i];
          for_scale.at[i] += grad_scale * z;
          if (through_norm) {
            grad.at[i] *= weight.at[i];
            (half ? high : low) += grad.at[i];
            (half ? high_tilt : low_tilt) += grad.at[i] * x_hat;
          }
        }
        if (through_norm)
          *reinterpret_cast<Quad<Sum>*>(quad_of(grad_z, row, plan.wide_sum_stride, c)) = grad;
        else
          write_quad(args.grad_x, tile.first + row, c, grad);
      }
      if (vectors.norm_weight >= 0)
        add_columns(block_sums + vectors.norm_weight, a.C, c, for_weight, first);
      if (vectors.norm_bias >= 0)
        add_columns(block_sums + vectors.norm_bias, a.C, c, for_bias, first);
      if (vectors.scale_weight >= 0)
        add_columns(block_sums + vectors.scale_weight, a.C, c, for_scale, first);
    }
    if (!through_norm) return;
    rows.parts.set(low, high);
    rows.other_parts.set(low_tilt, high_tilt);
    __syncthreads();
    z_to_x();
  }

  /// Through the norm; its sums over each row are in `parts` and `other_parts`.
  __device__ __forceinline__ void z_to_x() {
    Sum level[2], tilt[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      level[half] = rows.parts.total(g + 8 * half) / a.C;
      tilt[half] = rows.other_parts.total(g + 8 * half) / a.C;
    }
    for (int n = warp_id(); n < a.wide_tiles(); n += kAdapterWarps) {
      const int c = n * kTileColumns + 4 * t;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = g + 8 * half;
        if (row >= tile.count) break;
        const Quad<Sum> x = read_quad<Sum>(a.x, tile.first + row, c);
        Quad<Sum> grad =
            *reinterpret_cast<const Quad<Sum>*>(quad_of(grad_z, row, plan.wide_sum_stride, c));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Sum x_hat = (x.at[i] - rows.means[row]) * rows.rstds[row];
          grad.at[i] = rows.rstds[row] * (grad.at[i] - level[half] - x_hat * tilt[half]);
        }
        write_quad(args.grad_x, tile.first + row, c, grad);
      }
    }
  }
};

}  // namespace dapt::cuda
