// Sizes of the factors of the products in mma.cuh. No CUDA header.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/dispatch.h"
#include "ops.h"

namespace dapt::cuda {

constexpr int kTileRows = 16, kTileColumns = 16;  // of a warp's product

struct ProductShape {
  int element_bytes, sum_bytes;
  int block;  // of the inner dimension
};

constexpr ProductShape product_shape(Real compute, bool tf32) {
  switch (compute) {
    case Real::f64: return {8, 8, 2};
    case Real::f32: return {4, 4, tf32 ? 16 : 4};
    default: return {2, 4, 32};
  }
}

constexpr int64_t round_up(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

/// Columns of a factor in memory, zero-padded so that it can be both a left factor and a product.
constexpr int64_t padded_width(int64_t columns, const ProductShape& shape) {
  return round_up(columns, std::max(kTileColumns, shape.block));
}

/// Elements from one row of a left factor to the next in shared memory. In bytes it is an odd
/// multiple of 64, so that eight rows are read without a bank conflict.
constexpr int64_t row_stride(int64_t columns, const ProductShape& shape) {
  return (round_up(padded_width(columns, shape) * shape.element_bytes + 64, 128) - 64) /
         shape.element_bytes;
}

/// Elements of a packed weight.
constexpr int64_t packed_size(int64_t columns, int64_t inner, const ProductShape& shape) {
  return padded_width(columns, shape) * padded_width(inner, shape);
}

}  // namespace dapt::cuda
