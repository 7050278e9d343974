// The backward of DAPT's adapter on CUDA, in three steps: the rows (a block takes 16 tokens from
// the outputs' gradients to that of x), the weights' gradients as products over tokens, and the
// sums of the partial results of both.
#include "cuda/adapter_backward.cuh"
#include "cuda/sum_rows.cuh"

namespace dapt::cuda {
namespace {

/// Blocks per multiprocessor: as many as leave each thread enough registers.
template <class Product>
constexpr int kRowBlocks = sizeof(typename Product::Element) == 2   ? 3
                           : sizeof(typename Product::Element) == 4 ? 2
                                                                    : 1;

// Parallel over runs of tiles of 16 tokens; within a block, a warp per 16 columns of each product.
template <class Product>
__global__ void __launch_bounds__(kAdapterThreads, kRowBlocks<Product>)
    adapter_rows_kernel(const AdapterBackward<Product> args) {
  const AdapterPlan& plan = args.adapter.plan;
  __shared__ BackwardRows<typename Product::Sum> rows;
  DAPT_DYNAMIC_SHARED(typename Product::Element, shared);
  for (int i = 0; i < static_cast<int>(plan.tiles_per_block); ++i) {
    const int64_t index = blockIdx.x * plan.tiles_per_block + i;
    if (index >= plan.tiles) return;
    BackwardTile<Product> tile(args, rows, shared, index, i == 0);
    tile.read();
    tile.make_hidden_units();
    tile.outputs_to_a();
    if (!args.wants_hidden) continue;
    tile.a_to_hidden_units();
    if (!args.wants_z && args.vectors.scale_weight < 0) continue;
    tile.hidden_units_to_x();
    __syncthreads();  // before the next tile's stats
  }
}

/// A weight's gradient: the sum over tokens of a row of C elements times a row of r.
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

// Parallel over splits of the tokens and 64 x 64 tiles of the gradients; within a block, a warp per
// 16 x 32 elements.
template <class Product>
__global__ void __launch_bounds__(kAdapterThreads, sizeof(typename Product::Sum) == 4 ? 2 : 1)
    adapter_weights_kernel(const OuterProducts<Product> args) {
  using Element = typename Product::Element;
  using Sum = typename Product::Sum;
  constexpr int kStride = kOuterTile + 8;  // avoids bank conflicts when read across
  constexpr int kRowsAtOnce = kAdapterThreads / (kOuterTile / 4),
                kParts = kOuterTokens / kRowsAtOnce;
  const Adapter<Product>& a = args.adapter;
  const int narrow_tiles = (a.r + kOuterTile - 1) / kOuterTile;
  const OuterProduct<Product>& own = args.at[blockIdx.z / narrow_tiles];
  const int first_c = blockIdx.y * kOuterTile;
  const int first_j = static_cast<int>(blockIdx.z) % narrow_tiles * kOuterTile;
  __shared__ __align__(16) Element wide[kOuterTokens * kStride], narrow[kOuterTokens * kStride];

  // A thread loads four columns of every 16th token.
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
      const Sum* partials = partials_ ? partials_ + at : nullptr;  // null without tokens
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

    WeightPacker<Product> packer(product_shape(a_.compute, a_.tf32), a_.weight_dtype, context_);
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
