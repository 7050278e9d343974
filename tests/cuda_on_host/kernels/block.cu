// Correct kernels whose threads cooperate within one block. Tests also build copies with one
// synchronization removed.
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "exports.h"

namespace dapt::cuda {

// Parallelize over rows: a block sums one row, `rounds` times.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    sum_rows(const int* __restrict__ values, int* __restrict__ sums, int columns, int rounds) {
  __shared__ int partial[kThreads / 32];
  __shared__ int total;
  for (int round = 0; round < rounds; ++round) {
    int sum = round;
    for (int i = threadIdx.x; i < columns; i += kThreads) sum += values[blockIdx.x * columns + i];
    sum = warp_sum(sum);
    if (lane_id() == 0) partial[warp_id()] = sum;
    __syncthreads();  // 1: all partial sums are written
    if (warp_id() == 0) {
      sum = warp_sum(lane_id() < kThreads / 32 ? partial[lane_id()] : 0);
      if (lane_id() == 0) total = sum;
    }
    __syncthreads();  // 2: the total is written
    if (threadIdx.x == kThreads - 1) sums[blockIdx.x] = total - kThreads * round;
  }
}

// Parallelize over warps: each reverses its 32 values in shared memory, then swaps neighbors.
__global__ void reverse_warps(const float* values, float* swapped) {
  DAPT_DYNAMIC_SHARED(float, buffer);
  float* const mine = buffer + warp_id() * 32;
  const unsigned lane = lane_id();
  mine[lane] = values[threadIdx.x];
  __syncwarp();  // 1: all are written
  const float opposite = mine[31 - lane];
  __syncwarp();  // 2: all are read
  mine[lane] = opposite;
  __syncwarp();  // 3: all are written again
  swapped[threadIdx.x] = mine[lane ^ 1];
}

// Parallelize over all values: a histogram in shared memory, added to one in global memory.
__global__ void histogram(const int* values, unsigned* counts, int n, int bins) {
  DAPT_DYNAMIC_SHARED(unsigned, mine);
  for (int i = threadIdx.x; i < bins; i += blockDim.x) mine[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd(&mine[values[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += blockDim.x) atomicAdd(&counts[i], mine[i]);
}

// Parallelize over threads: all add to one sum under a spin lock.
__global__ void add_under_lock(int* lock, double* sum) {
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  __threadfence();
  *sum += blockIdx.x * blockDim.x + threadIdx.x;
  __threadfence();
  atomicExch(lock, 0);
}

// Parallelize over a 3-D grid of 3-D blocks: each thread writes its coordinates.
__global__ void coordinates(int* out) {  // [grid, block, 6]
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  int* const mine = out + 6 * (block * (blockDim.x * blockDim.y * blockDim.z) + thread);
  mine[0] = blockIdx.x, mine[1] = blockIdx.y, mine[2] = blockIdx.z;
  mine[3] = threadIdx.x, mine[4] = threadIdx.y, mine[5] = threadIdx.z;
}

// One block: counts positive values, and tells whether any and whether all are positive.
__global__ void count_positive(const int* values, int* results) {
  const int positive = values[threadIdx.x] > 0;
  const int count = __syncthreads_count(positive);
  const int any = __syncthreads_or(positive);
  const int all = __syncthreads_and(positive);
  int* const mine = results + 3 * threadIdx.x;
  mine[0] = count, mine[1] = any, mine[2] = all;
}

// Each thread writes how many threads came before it.
__global__ void turns(int* counter, int* turn) {
  turn[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

// One thread per block: reads shared memory that nobody has written.
__global__ void read_unwritten(unsigned* words) {
  __shared__ unsigned word;
  words[blockIdx.x] = word;
  word = 0;
}

}  // namespace dapt::cuda

using namespace dapt::cuda;

EXPORT const char* run_sum_rows(const int* values, int* sums, int rows, int columns, int rounds) {
  return message_of(
      [&] { DAPT_LAUNCH((sum_rows<256>), rows, 256, 0, nullptr, values, sums, columns, rounds); });
}
EXPORT const char* run_reverse_warps(const float* values, float* swapped, int warps) {
  return message_of([&] {
    const int threads = 32 * warps;
    DAPT_LAUNCH(reverse_warps, 1, threads, threads * sizeof(float), nullptr, values, swapped);
  });
}
EXPORT const char* run_histogram(const int* values, unsigned* counts, int n, int bins) {
  return message_of(
      [&] { DAPT_LAUNCH(histogram, 3, 96, bins * sizeof(int), nullptr, values, counts, n, bins); });
}
EXPORT const char* run_add_under_lock(int* lock, double* sum, int blocks, int threads) {
  return message_of([&] { DAPT_LAUNCH(add_under_lock, blocks, threads, 0, nullptr, lock, sum); });
}
EXPORT const char* run_coordinates(int* out, const unsigned* grid, const unsigned* block) {
  return message_of([&] {
    DAPT_LAUNCH(coordinates, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0,
                nullptr, out);
  });
}
EXPORT const char* run_count_positive(const int* values, int* results, int threads) {
  return message_of([&] { DAPT_LAUNCH(count_positive, 1, threads, 0, nullptr, values, results); });
}
EXPORT const char* run_turns(int* counter, int* turn, int blocks, int threads) {
  return message_of([&] { DAPT_LAUNCH(turns, blocks, threads, 0, nullptr, counter, turn); });
}
EXPORT const char* run_read_unwritten(unsigned* words, int blocks) {
  return message_of([&] { DAPT_LAUNCH(read_unwritten, blocks, 1, 0, nullptr, words); });
}
