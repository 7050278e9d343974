// Packs weights in the order in which warps read them (mma.cuh), padded with zeros: 16 columns at a
// time, and for these the inner dimension block by block. Two strides let it transpose as well.
// float32 weights are rounded to what the product takes, so that training keeps no second copy.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/plan_product.h"

namespace dapt::cuda {

struct PackedWeight {
  const void* weight;  // element (column, inner) at column * column_step + inner * inner_step
  int64_t column_step, inner_step;
  int64_t columns, inner, padded_inner;
  int64_t size;   // packed
  int64_t count;  // weights in the stack, one after another
  bool in_float;  // otherwise in the product's element type
  void* packed;
};

struct PackedWeights {
  static constexpr int kMost = 5;
  PackedWeight at[kMost];
};

constexpr int kPackThreads = 256;

// Parallel over 16-byte pieces of every packed weight, and over the weights of a stack.
template <class Product>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const PackedWeights weights) {
  using Element = typename Product::Element;
  constexpr int kVector = Product::kVector, kUnit = kTileColumns * Product::kBlock;
  const PackedWeight& own = weights.at[blockIdx.y];
  const int64_t blocks = own.padded_inner / Product::kBlock;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x) * kVector;
  if (first >= own.size) return;
  const int64_t tile = first / kUnit / blocks, block = first / kUnit % blocks;
  if (blockIdx.z >= own.count) return;
  const int64_t begin = blockIdx.z * own.columns * own.inner;
  struct alignas(16) {
    Element at[kVector];
  } piece;
  const auto take = [&](const auto* weight) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int2 place = Product::packed_from(static_cast<int>(first % kUnit) + i);
      const int64_t column = tile * kTileColumns + place.x,
                    inner = block * Product::kBlock + place.y;
      const bool inside = column < own.columns && inner < own.inner;
      using Sum = typename Product::Sum;
      piece.at[i] = Product::factor(
          inside ? static_cast<Sum>(weight[column * own.column_step + inner * own.inner_step])
                 : Sum(0));
    }
  };
  if (sizeof(Element) == 2 && own.in_float) {
    take(static_cast<const float*>(own.weight) + begin);
  } else {
    take(static_cast<const Element*>(own.weight) + begin);
  }
  std::memcpy(static_cast<Element*>(own.packed) + blockIdx.z * own.size + first, &piece,
              sizeof piece);
}

/// Collects weights and packs them in one launch.
template <class Product>
class WeightPacker {
 public:
  using Element = typename Product::Element;

  WeightPacker(const ProductShape& shape, Real weight_dtype, const Context& context)
      : shape_(shape), in_float_(weight_dtype == Real::f32), context_(context) {}

  /// weight [columns, inner], or [inner, columns] when `transposed`; `count` of them in a stack.
  const Element* add(const void* weight, int64_t columns, int64_t inner, bool transposed = false,
                     int64_t count = 1) {
    const int64_t size = packed_size(columns, inner, shape_);
    void* packed = context_.scratch(count * size * sizeof(Element));
    weights_.at[count_++] = {.weight = weight,
                             .column_step = transposed ? 1 : inner,
                             .inner_step = transposed ? columns : 1,
                             .columns = columns,
                             .inner = inner,
                             .padded_inner = padded_width(inner, shape_),
                             .size = size,
                             .count = count,
                             .in_float = in_float_,
                             .packed = packed};
    most_ = std::max(most_, size), stack_ = std::max(stack_, count);
    return static_cast<const Element*>(packed);
  }

  void launch() const {
    if (count_ == 0) return;
    const unsigned blocks = grid_of(ceil_div(most_ / Product::kVector, kPackThreads));
    DAPT_LAUNCH((pack_kernel<Product>), dim3(blocks, count_, grid_of(stack_)), kPackThreads, 0,
                context_.stream, weights_);
  }

 private:
  const ProductShape shape_;
  const bool in_float_;
  const Context& context_;
  PackedWeights weights_{};
  unsigned count_ = 0;
  int64_t most_ = 0, stack_ = 1;
};

/// sums += a tile of 16 rows times 16 packed columns, over `blocks` blocks of the inner dimension.
/// The next block of the weight is loaded while the current one is multiplied.
template <class Product>
__device__ __forceinline__ void multiply_tile(typename Product::Sum (&sums)[8],
                                              const typename Product::Element* rows, int stride,
                                              const typename Product::Element* packed, int blocks) {
  constexpr int kUnit = kTileColumns * Product::kBlock;
  auto next = Product::load_right(packed);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    const auto right = next;
    next = Product::load_right(packed + min(block + 1, blocks - 1) * kUnit);
    Product::multiply(sums, Product::load_left(rows + block * Product::kBlock, stride), right);
  }
}

}  // namespace dapt::cuda
