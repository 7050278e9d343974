// Shared by the adapter's forward and backward: a tile of 16 tokens, its norm, its hidden units.
#pragma once

#include "cuda/activations.cuh"
#include "cuda/pack_weights.cuh"
#include "cuda/plan_adapter.h"
#include "cuda/quads.cuh"
#include "philox.h"

namespace dapt::cuda {

constexpr int kAdapterWarps = kAdapterThreads / 32;

/// The arguments common to both directions, in the form the kernels take.
template <class Product>
struct Adapter {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;

  AdapterPlan plan;
  int C, r;
  Rows x, hidden;                                                 // [tokens, C], [tokens, r]
  Rows norm_weight, norm_bias, down_bias, scale_weight, up_bias;  // [1, C] or [1, r]
  const Element *down = nullptr, *up = nullptr;                   // packed
  const Sum *scale_bias, *path_factor;                            // [1], [clouds]
  Sum* stats;                                                     // [tokens, 3]
  const int64_t *seed, *adapters;                                 // [1], [clouds]
  int count;                                                      // adapters
  int64_t packed_down, packed_up;                                 // elements of each
  uint32_t dropout_threshold;
  Sum dropout_factor, static_scale, eps;
  Activation activation;

  Adapter(const DynamicAdapterArgs& a, const AdapterPlan& plan)
      : plan(plan),
        C(static_cast<int>(a.C)),
        r(static_cast<int>(a.r)),
        x(a.x_dtype, a.x, C),
        hidden(a.compute, a.hidden, r),
        norm_weight(kSum, a.norm_weight, C),
        norm_bias(kSum, a.norm_bias, C),
        down_bias(kSum, a.down_bias, r),
        scale_weight(kSum, a.scale_weight, C),
        up_bias(kSum, a.up_bias, C),
        scale_bias(static_cast<const Sum*>(a.scale_bias)),
        path_factor(static_cast<const Sum*>(a.path_factor)),
        stats(static_cast<Sum*>(a.stats)),
        seed(a.seed),
        adapters(a.adapters),
        count(a.adapters ? static_cast<int>(a.A) : 1),
        packed_down(packed_size(a.r, a.C, product_shape(a.compute, a.tf32))),
        packed_up(packed_size(a.C, a.r, product_shape(a.compute, a.tf32))),
        dropout_threshold(Dropout(a.dropout).threshold),
        dropout_factor(static_cast<Sum>(Dropout(a.dropout).factor)),
        static_scale(static_cast<Sum>(a.static_scale)),
        eps(static_cast<Sum>(a.eps)),
        activation(a.activation) {}

  /// The adapter whose weights a cloud uses; an index out of range never reads outside the weights.
  __device__ int adapter_of(int64_t cloud) const {
    const int64_t index = adapters[cloud];
    return index < 0 ? 0 : index < count ? static_cast<int>(index) : count - 1;
  }

  __device__ int wide_tiles() const { return plan.wide_width / kTileColumns; }
  __device__ int narrow_tiles() const { return plan.narrow_width / kTileColumns; }

  /// sums += a tile of wide or narrow rows times 16 columns of a packed weight.
  __device__ void multiply_wide(Sum (&sums)[8], const Element* rows, const Element* packed,
                                int column_tile) const {
    const int64_t size = static_cast<int64_t>(kTileColumns) * plan.wide_width;
    multiply_tile<Product>(sums, rows, plan.wide_stride, packed + column_tile * size,
                           plan.wide_width / Product::kBlock);
  }
  __device__ void multiply_narrow(Sum (&sums)[8], const Element* rows, const Element* packed,
                                  int column_tile) const {
    const int64_t size = static_cast<int64_t>(kTileColumns) * plan.narrow_width;
    multiply_tile<Product>(sums, rows, plan.narrow_stride, packed + column_tile * size,
                           plan.narrow_width / Product::kBlock);
  }

  static constexpr Real kSum = real_of<Sum>();
};

struct Tile {
  int64_t cloud, first;  // token
  int count;

  template <class Product>
  __device__ __forceinline__ Tile(const Adapter<Product>& a, int64_t index)
      : cloud(index / a.plan.cloud_tiles) {
    const int64_t begin = index % a.plan.cloud_tiles * kTileRows, left = a.plan.tokens - begin;
    first = cloud * a.plan.tokens + begin;
    count = left < kTileRows ? static_cast<int>(left) : kTileRows;
  }
};

template <class Sum>
struct Norm {
  Sum mean, rstd;
};

template <class Product, class Sum = typename Product::Sum>
__device__ __forceinline__ Quad<Sum> normalized(const Adapter<Product>& a, int64_t token, int c,
                                                const Norm<Sum>& norm, int own = 0) {
  Quad<Sum> z = read_quad<Sum>(a.x, token, c);
  if (!a.norm_weight.data) return z;
  const Quad<Sum> weight = read_quad<Sum>(a.norm_weight, own, c);
  const Quad<Sum> bias = read_quad<Sum>(a.norm_bias, own, c);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    z.at[i] = (z.at[i] - norm.mean) * norm.rstd * weight.at[i] + bias.at[i];
  return z;
}

/// Stores four elements of a left factor.
template <class Product, class Sum>
__device__ __forceinline__ void store_factors(typename Product::Element* to,
                                              const Quad<Sum>& values) {
  StoredQuad<typename Product::Element> quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) quad.at[i] = Product::factor(values.at[i]);
  *reinterpret_cast<StoredQuad<typename Product::Element>*>(to) = quad;
}

/// A warp writes a token's z to `to`, padded with zeros to the full width, and returns its dot
/// product with scale_weight. A negative token stands for none; `own` is the token's adapter.
template <class Product, class Sum = typename Product::Sum>
__device__ __forceinline__ Sum fill_row(const Adapter<Product>& a, int64_t token,
                                        const Norm<Sum>& norm, typename Product::Element* to,
                                        int own = 0) {
  Sum dot = 0;
#pragma unroll 2
  for (int c = 4 * lane_id(); c < a.plan.wide_width; c += 128) {
    const Quad<Sum> z = token < 0 ? Quad<Sum>{} : normalized(a, token, c, norm, own);
    const Quad<Sum> weight = read_quad<Sum>(a.scale_weight, own, c);
#pragma unroll
    for (int i = 0; i < 4; ++i) dot += z.at[i] * weight.at[i];
    store_factors<Product>(to + c, z);
  }
  return warp_sum(dot);
}

/// The dropout factors of four adjacent hidden units of a token.
template <class Product, class Sum = typename Product::Sum>
__device__ __forceinline__ Quad<Sum> draw_dropout(const Adapter<Product>& a, int64_t token, int j) {
  if (!a.seed) return {1, 1, 1, 1};
  const auto low = static_cast<uint32_t>(token), high = static_cast<uint32_t>(token >> 32);
  const Words words =
      philox(low, high, static_cast<uint32_t>(j / 4), static_cast<uint64_t>(*a.seed));
  const auto factor = [&](uint32_t word) {
    return word >= a.dropout_threshold ? a.dropout_factor : Sum(0);
  };
  return {factor(words.x), factor(words.y), factor(words.z), factor(words.w)};
}

/// A warp's sums over the 16 rows of its tile, left in lanes 0 to 3; the order is fixed.
template <class Sum>
__device__ __forceinline__ Quad<Sum> sum_over_rows(Quad<Sum> columns) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int distance = 16; distance >= 4; distance /= 2)
      columns.at[i] += __shfl_xor_sync(kFullWarp, columns.at[i], distance);
  return columns;
}

}  // namespace dapt::cuda
