// Partial sums stored in rows, added up in a fixed order.
#pragma once

#include "cuda/dispatch.h"
#include "cuda/launch.h"

namespace dapt::cuda {

/// out[i] = sum over rows of partials[row, i], divided by divisor[i] if there is one. A divisor
/// closer to zero than `least_divisor` is replaced by that, with its own sign.
template <class Sum>
struct RowSum {
  const Sum* partials;  // [rows, stride]
  Sum* out;             // [size]
  const Sum* divisor;   // [size] or null
  int64_t rows, stride, size;
  Sum least_divisor = 0;
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

constexpr int kSumThreads = 512, kMostSumLanes = 16;

/// Threads that share the rows of a column.
__host__ __device__ constexpr int sum_lanes(int64_t rows) { return rows > 32 ? kMostSumLanes : 1; }
__host__ __device__ constexpr int64_t sum_blocks(int64_t rows, int64_t size) {
  return (size * sum_lanes(rows) + kSumThreads - 1) / kSumThreads;
}

// Parallel over the columns of all sums and, if there are many rows, 16 lanes per column.
template <class Sum>
__global__ void __launch_bounds__(kSumThreads) sum_rows_kernel(const RowSums<Sum> sums) {
  __shared__ Sum of_lanes[kSumThreads];
  int64_t block = blockIdx.x;
  int job = 0;
  while (block >= sum_blocks(sums.at[job].rows, sums.at[job].size)) {
    block -= sum_blocks(sums.at[job].rows, sums.at[job].size);
    ++job;
  }
  const RowSum<Sum>& own = sums.at[job];
  const int lanes = sum_lanes(own.rows), columns = kSumThreads / lanes;
  const int column = threadIdx.x % columns, lane = threadIdx.x / columns;
  const int64_t i = block * columns + column;
  Sum sum = 0;
  if (i < own.size) {
#pragma unroll 6
    for (int64_t row = lane; row < own.rows; row += lanes)
      sum += own.partials[row * own.stride + i];
  }
  of_lanes[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0 || i >= own.size) return;
  for (int other = 1; other < lanes; ++other) sum += of_lanes[other * columns + column];
  if (own.divisor) {
    const Sum divisor = own.divisor[i];
    sum /= fabs(divisor) < own.least_divisor ? copysign(own.least_divisor, divisor) : divisor;
  }
  own.out[i] = sum;
}

template <class Sum>
void sum_rows(const RowSums<Sum>& sums, cudaStream_t stream) {
  int64_t blocks = 0;
  for (int i = 0; i < sums.count; ++i) blocks += sum_blocks(sums.at[i].rows, sums.at[i].size);
  if (blocks == 0) return;
  DAPT_LAUNCH((sum_rows_kernel<Sum>), grid_of(blocks), kSumThreads, 0, stream, sums);
}

}  // namespace dapt::cuda
