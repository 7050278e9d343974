// DAPT's adapter on CUDA, backward, in three steps: rows (a block takes 16 tokens from the outputs'
// gradients to x's), the weights' gradients as products over tokens, and the sums of both.
#include "cuda/adapter.cuh"
#include "cuda/sum_rows.cuh"

namespace dapt::cuda {
namespace {

/// Column sums of the rows' step: where each parameter's begin in a block's partial sums; -1 where
/// it is not wanted.
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
  // what the weights' gradients are made of, or null
  Element* scaled;       // [tokens, r]: scale * active hidden units
  Element* grad_a;       // [tokens, C]
  Element* grad_hidden;  // [tokens, r]
  Vectors vectors;
  Sum* partials;  // [blocks, vectors.size]
};

/// Sums of a thread's rows g and g + 8, to be added up over the warps of a block.
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

/// Adds the sums over a tile's rows to a block's; always by the same thread.
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

/// On a multiprocessor; as many as leave a thread enough registers.
template <class Product>
constexpr int kRowBlocks = sizeof(typename Product::Element) == 2   ? 3
                           : sizeof(typename Product::Element) == 4 ? 2
                                                                    : 1;

// Parallel over runs of tiles of 16 tokens; in a block a warp per 16 columns of each product.
template <class Product>
__global__ void __launch_bounds__(kAdapterThreads, kRowBlocks<Product>)
    adapter_rows_kernel(const AdapterBackward<Product> args) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  const Adapter<Product>& a = args.adapter;
  const AdapterPlan& plan = a.plan;
  const Vectors& vectors = args.vectors;
  __shared__ Sum means[kTileRows], rstds[kTileRows], scales[kTileRows], grad_scales[kTileRows];
  __shared__ RowParts<Sum> parts, other_parts;
  DAPT_DYNAMIC_SHARED(Element, active);                                 // [16, r]
  Element* const grad_units = active + kTileRows * plan.narrow_stride;  // [16, r]
  Sum* const slopes =  // [16, r]: d hidden / d unit
      reinterpret_cast<Sum*>(grad_units + kTileRows * plan.narrow_stride);
  Element* const wide =  // [16, C]: z, then the gradient of a
      reinterpret_cast<Element*>(slopes + kTileRows * plan.narrow_sum_stride);
  Sum* const grad_z = reinterpret_cast<Sum*>(wide);  // [16, C], afterwards

  const int g = lane_id() / 4, t = lane_id() % 4;
  const int64_t begin = blockIdx.x * plan.tiles_per_block;
  const int64_t end = min(begin + plan.tiles_per_block, plan.tiles);
  Sum* const block_sums = args.partials + blockIdx.x * static_cast<int64_t>(vectors.size);

  for (int64_t index = begin; index < end; ++index) {
    const Tile tile(a, index);
    const bool first = index == begin;
    if (threadIdx.x < kTileRows) {
      const bool inside = static_cast<int>(threadIdx.x) < tile.count;
      const Sum* stats = a.stats + 3 * (tile.first + threadIdx.x);
      means[threadIdx.x] = inside ? stats[0] : Sum(0);
      rstds[threadIdx.x] = inside ? stats[1] : Sum(0);
      scales[threadIdx.x] = inside ? stats[2] : Sum(0);
    }
    __syncthreads();
    if (!a.hidden.data) {
      for (int row = warp_id(); row < kTileRows; row += kAdapterWarps)
        fill_row(a, row < tile.count ? tile.first + row : -1, Norm<Sum>{means[row], rstds[row]},
                 wide + row * plan.wide_stride);
      __syncthreads();
    }

    // The hidden units once more.
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
        const Sum scale = scales[row];
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

    // From the outputs to a.
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
        const Sum scale = scales[row];
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
    parts.set(low, high);
    __syncthreads();
    if (!args.wants_hidden) continue;

    // To the hidden units and the scale, whose gradient is a's product with `up`, and that is the
    // product of the hidden rows on the other side.
    low = high = 0;
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
    other_parts.set(low, high);
    __syncthreads();
    if (threadIdx.x < kTileRows) {
      const bool counts = args.wants_scale && scales[threadIdx.x] > 0;
      grad_scales[threadIdx.x] =
          counts ? parts.total(threadIdx.x) + other_parts.total(threadIdx.x) : Sum(0);
    }
    __syncthreads();
    if (vectors.scale_bias >= 0 && threadIdx.x == 0) {
      Sum sum = first ? Sum(0) : block_sums[vectors.scale_bias];
      for (int row = 0; row < kTileRows; ++row) sum += grad_scales[row];
      block_sums[vectors.scale_bias] = sum;
    }
    if (!args.wants_z && vectors.scale_weight < 0) continue;

    // To z, and to x where there is no norm.
    const bool through_norm = args.grad_x.data && a.norm_weight.data;
    low = high = 0;
    Sum low_tilt = 0, high_tilt = 0;
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
        const Sum grad_scale = grad_scales[row];
        const Quad<Sum> x = read_quad<Sum>(a.x, tile.first + row, c);
        Quad<Sum> grad;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Sum x_hat = (x.at[i] - means[row]) * rstds[row];
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
    if (!through_norm) {
      __syncthreads();  // before the next tile's stats
      continue;
    }
    parts.set(low, high);
    other_parts.set(low_tilt, high_tilt);
    __syncthreads();

    // Through the norm.
    Sum level[2], tilt[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      level[half] = parts.total(g + 8 * half) / a.C;
      tilt[half] = other_parts.total(g + 8 * half) / a.C;
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
          const Sum x_hat = (x.at[i] - means[row]) * rstds[row];
          grad.at[i] = rstds[row] * (grad.at[i] - level[half] - x_hat * tilt[half]);
        }
        write_quad(args.grad_x, tile.first + row, c, grad);
      }
    }
    __syncthreads();
  }
}

/// A weight's gradient: products over tokens of a row of C elements and one of r.
template <class Product>
struct OuterProduct {
  const typename Product::Element* wide;    // [tokens, C] padded, or null: z
  const typename Product::Element* narrow;  // [tokens, r] padded
  typename Product::Sum* partials;          // [splits, C * r]
  int64_t wide_step, narrow_step;           // between elements of the gradient
};

template <class Product>
struct OuterProducts {
  Adapter<Product> adapter;
  OuterProduct<Product> at[2];
  int64_t tokens;
};

// Parallel over splits of the tokens and tiles of 64 x 64 elements of the gradients; in a block a
// warp per 16 x 32.
template <class Product>
__global__ void __launch_bounds__(kAdapterThreads, sizeof(typename Product::Sum) == 4 ? 2 : 1)
    adapter_weights_kernel(const OuterProducts<Product> args) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  constexpr int kStride = kOuterTile + 8;  // without bank conflicts across
  constexpr int kRowsAtOnce = kAdapterThreads / (kOuterTile / 4),
                kParts = kOuterTokens / kRowsAtOnce;
  const Adapter<Product>& a = args.adapter;
  const int narrow_tiles = (a.r + kOuterTile - 1) / kOuterTile;
  const OuterProduct<Product>& own = args.at[blockIdx.z / narrow_tiles];
  const int first_c = blockIdx.y * kOuterTile;
  const int first_j = static_cast<int>(blockIdx.z) % narrow_tiles * kOuterTile;
  __shared__ __align__(16) Element wide[kOuterTokens * kStride], narrow[kOuterTokens * kStride];

  // A thread brings four columns of every 16th token.
  const int brought = threadIdx.x % (kOuterTile / 4) * 4, bringer = threadIdx.x / (kOuterTile / 4);
  const int c = first_c + brought, j = first_j + brought;
  Quad<Sum> wide_next[kParts], narrow_next[kParts];
  const int64_t begin = blockIdx.x * a.plan.tokens_per_split;
  const int64_t end = min(begin + a.plan.tokens_per_split, args.tokens);
  const auto read_elements = [](const Element* from) {
    const auto stored = *reinterpret_cast<const StoredQuad<Element>*>(from);
    Quad<Sum> quad;
#pragma unroll
    for (int i = 0; i < 4; ++i) quad.at[i] = static_cast<Sum>(stored.at[i]);
    return quad;
  };
  const auto bring = [&](int64_t stage) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int64_t token = stage + part * kRowsAtOnce + bringer;
      wide_next[part] = narrow_next[part] = {};
      if (token >= end) continue;
      if (j < a.plan.narrow_width)
        narrow_next[part] = read_elements(own.narrow + token * a.plan.narrow_width + j);
      if (c >= a.plan.wide_width) continue;
      if (own.wide) {
        wide_next[part] = read_elements(own.wide + token * a.plan.wide_width + c);
      } else {
        const Sum* stats = a.stats + 3 * token;
        wide_next[part] = normalized(a, token, c, Norm<Sum>{stats[0], stats[1]});
      }
    }
  };

  const int row_tile = warp_id() % 4 * kTileRows, column_tile = warp_id() / 4 * 2 * kTileColumns;
  Sum sums[2][8] = {};
  bring(begin);
  for (int64_t stage = begin; stage < end; stage += kOuterTokens) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int at = (part * kRowsAtOnce + bringer) * kStride + brought;
      store_factors<Product>(wide + at, wide_next[part]);
      store_factors<Product>(narrow + at, narrow_next[part]);
    }
    __syncthreads();
    if (stage + kOuterTokens < end) bring(stage + kOuterTokens);
#pragma unroll 1
    for (int token = 0; token < kOuterTokens; token += Product::kBlock) {
      const auto left = Product::load_left_across(wide + token * kStride + row_tile, kStride);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        Product::multiply(sums[i], left,
                          Product::load_right_across(
                              narrow + token * kStride + column_tile + i * kTileColumns, kStride));
      }
    }
    __syncthreads();
  }

  Sum* const gradient = own.partials + blockIdx.x * static_cast<int64_t>(a.C) * a.r;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = first_c + row_tile + i / 4 * 8 + lane_id() / 4;
      const int column = first_j + column_tile + tile * kTileColumns + column_across(i % 4);
      if (row < a.C && column < a.r)
        gradient[row * own.wide_step + column * own.narrow_step] = sums[tile][i];
    }
  }
}

template <class Product>
class Launcher {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;

 public:
  Launcher(const DynamicAdapterBackwardArgs& args, const AdapterPlan& plan, const Context& context)
      : g_(args), a_(args.forward), plan_(plan), context_(context) {}

  void run() {
    if (plan_.tiles > 0) run_rows();
    RowSums<Sum> sums;
    const auto add = [&](void* out, int at, int64_t size) {
      const Sum* partials = partials_ ? partials_ + at : nullptr;  // without tokens there are none
      if (out)
        sums.add({partials, static_cast<Sum*>(out), nullptr, plan_.backward_blocks, vectors_.size,
                  size});
    };
    add(g_.grad_norm_weight, vectors_.norm_weight, a_.C);
    add(g_.grad_norm_bias, vectors_.norm_bias, a_.C);
    add(g_.grad_down_bias, vectors_.down_bias, a_.r);
    add(g_.grad_scale_weight, vectors_.scale_weight, a_.C);
    add(g_.grad_scale_bias, vectors_.scale_bias, 1);
    add(g_.grad_up_bias, vectors_.up_bias, a_.C);
    for (const auto& [out, partials] : {std::pair{g_.grad_up_weight, up_partials_},
                                        std::pair{g_.grad_down_weight, down_partials_}}) {
      sums.add({partials, static_cast<Sum*>(out), nullptr, plan_.splits, a_.C * a_.r, a_.C * a_.r});
    }
    sum_rows(sums, context_.stream);
  }

 private:
  template <class T>
  T* scratch(int64_t count) const {
    return static_cast<T*>(context_.scratch(count * sizeof(T)));
  }

  void run_rows() {
    const int64_t C = a_.C, r = a_.r, tokens = a_.B * a_.T;
    const Adapter<Product> adapter(a_, plan_);
    AdapterBackward<Product> rows{.adapter = adapter,
                                  .grad_out = Rows(a_.out_dtype, g_.grad_out, C),
                                  .grad_prompt = Rows(a_.out_dtype, g_.grad_prompt_mean, C),
                                  .grad_x = Rows(a_.x_dtype, g_.grad_x, C),
                                  .grad_mlp_out = Rows(a_.mlp_dtype, g_.grad_mlp_out, C)};
    const bool wants_norm = a_.norm_weight && (g_.grad_norm_weight || g_.grad_norm_bias);
    rows.wants_z = g_.grad_x || wants_norm;
    rows.wants_scale =
        a_.scale_weight && (rows.wants_z || g_.grad_scale_weight || g_.grad_scale_bias);
    rows.wants_hidden =
        rows.wants_z || rows.wants_scale || g_.grad_down_weight || g_.grad_down_bias;

    WeightPacker<Product> packer(product_shape(a_.compute, a_.tf32), context_);
    if (!a_.hidden) rows.adapter.down = packer.add(a_.down_weight, r, C);
    if (g_.grad_prompt_mean) rows.adapter.up = packer.add(a_.up_weight, C, r);
    if (rows.wants_hidden) rows.up_back = packer.add(a_.up_weight, r, C, true);
    if (rows.wants_z) rows.down_back = packer.add(a_.down_weight, C, r, true);
    packer.launch();

    const auto place = [&](void* out, int64_t size) {
      if (!out) return -1;
      const int at = vectors_.size;
      vectors_.size += static_cast<int>(size);
      return at;
    };
    vectors_.norm_weight = place(g_.grad_norm_weight, C);
    vectors_.norm_bias = place(g_.grad_norm_bias, C);
    vectors_.down_bias = place(g_.grad_down_bias, r);
    vectors_.scale_weight = place(g_.grad_scale_weight, C);
    vectors_.scale_bias = place(g_.grad_scale_bias, 1);
    vectors_.up_bias = place(g_.grad_up_bias, C);
    if (vectors_.size) partials_ = scratch<Sum>(plan_.backward_blocks * vectors_.size);
    rows.vectors = vectors_;
    rows.partials = partials_;

    if (g_.grad_up_weight) {
      rows.scaled = scratch<Element>(tokens * plan_.narrow_width);
      rows.grad_a = scratch<Element>(tokens * plan_.wide_width);
      up_partials_ = scratch<Sum>(plan_.splits * C * r);
    }
    if (g_.grad_down_weight) {
      rows.grad_hidden = scratch<Element>(tokens * plan_.narrow_width);
      down_partials_ = scratch<Sum>(plan_.splits * C * r);
    }
    DAPT_LAUNCH((adapter_rows_kernel<Product>), grid_of(plan_.backward_blocks), kAdapterThreads,
                plan_.backward_bytes, context_.stream, rows);

    OuterProducts<Product> products{.adapter = adapter, .at = {}, .tokens = tokens};
    unsigned count = 0;
    if (up_partials_) products.at[count++] = {rows.grad_a, rows.scaled, up_partials_, r, 1};
    if (down_partials_) products.at[count++] = {nullptr, rows.grad_hidden, down_partials_, 1, C};
    if (count == 0) return;
    const dim3 grid(grid_of(plan_.splits), static_cast<unsigned>(ceil_div(C, kOuterTile)),
                    count * static_cast<unsigned>(ceil_div(r, kOuterTile)));
    DAPT_LAUNCH((adapter_weights_kernel<Product>), grid, kAdapterThreads, 0, context_.stream,
                products);
  }

  const DynamicAdapterBackwardArgs& g_;
  const DynamicAdapterArgs& a_;
  const AdapterPlan& plan_;
  const Context& context_;
  Vectors vectors_;
  Sum *partials_ = nullptr, *up_partials_ = nullptr, *down_partials_ = nullptr;
};

}  // namespace

void dynamic_adapter_backward(const DynamicAdapterBackwardArgs& args, const AdapterPlan& plan,
                              const Context& context) {
  with_product(args.forward.compute, args.forward.tf32,
               [&](auto product) { Launcher<decltype(product)>(args, plan, context).run(); });
}

void dynamic_adapter_backward(const DynamicAdapterBackwardArgs& args, const Context& context) {
  dynamic_adapter_backward(args, plan_adapter(args, current_device()), context);
}

}  // namespace dapt::cuda
