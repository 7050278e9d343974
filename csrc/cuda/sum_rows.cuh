// Partial sums that lie in rows, added up in a fixed order.
#pragma once

#include "cuda/dispatch.h"
#include "cuda/launch.h"

namespace dapt::cuda {

/// out[i] = sum over rows of partials[row, i], divided by divisor[i] where there is one.
template <class Sum>
struct RowSum {
  const Sum* partials;  // [rows, stride]
  Sum* out;             // [size]
  const Sum* divisor;   // [size] or null
  int64_t rows, stride, size;
};

template <class Sum>
struct RowSums {
  static constexpr int kMost = 8;
  RowSum<Sum> at[kMost];
  int count = 0;

  void add(const RowSum<Sum>& sum) {
    if (sum.out && sum.size > 0) at[count++] = sum;
  }
};

constexpr int kSumColumns = 32, kSumLanes = 16;

// Parallel over columns of all sums, 32 a block; 16 lanes share the rows of each.
template <class Sum>
__global__ void __launch_bounds__(kSumColumns* kSumLanes) sum_rows_kernel(const RowSums<Sum> sums) {
  __shared__ Sum lanes[kSumLanes][kSumColumns];
  int64_t block = blockIdx.x;
  int job = 0;
  while (block >= (sums.at[job].size + kSumColumns - 1) / kSumColumns)
    block -= (sums.at[job++].size + kSumColumns - 1) / kSumColumns;
  const RowSum<Sum>& own = sums.at[job];
  const int column = threadIdx.x % kSumColumns, lane = threadIdx.x / kSumColumns;
  const int64_t i = block * kSumColumns + column;
  Sum sum = 0;
  if (i < own.size) {
#pragma unroll 6
    for (int64_t row = lane; row < own.rows; row += kSumLanes)
      sum += own.partials[row * own.stride + i];
  }
  lanes[lane][column] = sum;
  __syncthreads();
  if (lane > 0 || i >= own.size) return;
#pragma unroll
  for (int other = 1; other < kSumLanes; ++other) sum += lanes[other][column];
  own.out[i] = own.divisor ? sum / own.divisor[i] : sum;
}

template <class Sum>
void sum_rows(const RowSums<Sum>& sums, cudaStream_t stream) {
  int64_t blocks = 0;
  for (int i = 0; i < sums.count; ++i) blocks += ceil_div(sums.at[i].size, kSumColumns);
  if (blocks == 0) return;
  DAPT_LAUNCH((sum_rows_kernel<Sum>), grid_of(blocks), kSumColumns * kSumLanes, 0, stream, sums);
}

}  // namespace dapt::cuda
