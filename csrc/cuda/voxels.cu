// The grid cells of points, the unique cells, and the neighbors of cells, on CUDA. Cells are found
// in a hash table that threads fill in any order; what is read from it does not depend on that
// order.
#include "cells.h"
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "ops.h"

namespace dapt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kNone = ~0u;

// --- points -> cells

// Parallel over clouds: a block finds the smallest coordinates of one.
__global__ void __launch_bounds__(kThreads)
    corners_kernel(const GridCellsArgs args, float* corners) {
  __shared__ float of_warps[3][kThreads / 32];
  const int64_t b = blockIdx.x, length = args.lengths ? args.lengths[b] : args.N;
  const float* points = args.points + 3 * b * args.N;  // [N, 3]
  for (int axis = 0; axis < 3; ++axis) {
    float least = __uint_as_float(0x7f800000);
    for (int64_t n = threadIdx.x; n < min(length, args.N); n += kThreads)
      least = min(least, points[3 * n + axis]);
    least = warp_reduce(least, Min());
    if (lane_id() == 0) of_warps[axis][warp_id()] = least;
  }
  __syncthreads();
  if (threadIdx.x >= 3) return;
  float least = of_warps[threadIdx.x][0];
  for (int warp = 1; warp < kThreads / 32; ++warp) least = min(least, of_warps[threadIdx.x][warp]);
  corners[3 * b + threadIdx.x] = least;
}

// Parallel over points.
__global__ void __launch_bounds__(kThreads)
    grid_cells_kernel(const GridCellsArgs args, const float* corners) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (point >= args.B * args.N) return;
  const int64_t b = point / args.N, length = args.lengths ? args.lengths[b] : args.N;
  bool is_one = point % args.N < length;
  int64_t cell[3];
  for (int axis = 0; axis < 3; ++axis) {
    const double from_corner =
        static_cast<double>(args.points[3 * point + axis]) - corners[3 * b + axis];
    const double index = floor(from_corner / args.size);
    is_one &= index >= 0;  // false for NaN as well
    cell[axis] = index < kMostCells ? static_cast<int64_t>(index) : kMostCells;
  }
  for (int axis = 0; axis < 3; ++axis) args.cells[3 * point + axis] = is_one ? cell[axis] : -1;
}

// --- the hash table

using Key = unsigned long long;

struct CellTable {
  Key* keys;        // [size], all bits set where free
  unsigned* first;  // [size] the first cell with the key
  unsigned size;    // a power of two, at least twice the number of cells

  /// The slot of a key, or the free slot where it belongs.
  __device__ __forceinline__ unsigned find(Key key) const {
    unsigned slot = start(key);
    while (keys[slot] != key && keys[slot] != ~Key(0)) slot = (slot + 1) & (size - 1);
    return slot;
  }
  __device__ __forceinline__ unsigned insert(Key key, unsigned cell) const {
    unsigned slot = start(key);
    for (;; slot = (slot + 1) & (size - 1)) {
      const Key there = atomicCAS(&keys[slot], ~Key(0), key);
      if (there == ~Key(0) || there == key) break;
    }
    atomicMin(&first[slot], cell);
    return slot;
  }

 private:
  __device__ __forceinline__ unsigned start(Key key) const {
    return static_cast<unsigned>(key * 0x9E3779B97F4A7C15ULL >> 32) & (size - 1);
  }
};

CellTable make_table(int64_t cells, const Context& context) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (cells > kMost)
    throw std::length_error("there must be at most 1073741824 cells on CUDA, got " +
                            std::to_string(cells));
  CellTable table{.keys = nullptr, .first = nullptr, .size = 64};
  while (table.size < 2 * cells) table.size *= 2;
  table.keys = static_cast<Key*>(context.scratch(table.size * sizeof(Key)));
  table.first = static_cast<unsigned*>(context.scratch(table.size * sizeof(unsigned)));
  DAPT_CUDA_CHECK(cudaMemsetAsync(table.keys, 0xff, table.size * sizeof(Key), context.stream));
  DAPT_CUDA_CHECK(
      cudaMemsetAsync(table.first, 0xff, table.size * sizeof(unsigned), context.stream));
  return table;
}

/// A cell's scene and coordinates.
struct Place {
  int64_t scene, x, y, z;

  __device__ __forceinline__ Place(const int64_t* cells, const int64_t* scenes, int64_t cell)
      : scene(scenes ? scenes[cell] & (kMostScenes - 1) : 0),
        x(cells[3 * cell]),
        y(cells[3 * cell + 1]),
        z(cells[3 * cell + 2]) {}
};

// --- unique cells

struct Numbering {
  CellTable table;
  unsigned* slots;    // [N] the slot of each cell, or kNone
  unsigned* counts;   // [table.size]
  unsigned* numbers;  // [table.size]
  unsigned* before;   // [blocks] first cells in all earlier blocks
};

// Parallel over cells.
__global__ void __launch_bounds__(kThreads)
    insert_cells_kernel(const UniqueCellsArgs args, const Numbering own) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= args.N) return;
  args.first[n] = -1, args.counts[n] = 0;
  const Place at(args.cells, args.scenes, n);
  unsigned slot = kNone;
  if (is_cell(at.x, at.y, at.z)) {
    slot = own.table.insert(cell_key(at.scene, at.x, at.y, at.z), static_cast<unsigned>(n));
    atomicAdd(&own.counts[slot], 1u);
  }
  own.slots[n] = slot;
}

/// Whether a cell is the first one with its key.
__device__ __forceinline__ bool is_first(const Numbering& own, int64_t n, int64_t N) {
  return n < N && own.slots[n] != kNone && own.table.first[own.slots[n]] == n;
}

// Parallel over cells: each block counts its first cells.
__global__ void __launch_bounds__(kThreads)
    count_firsts_kernel(const UniqueCellsArgs args, const Numbering own) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int firsts = __syncthreads_count(is_first(own, n, args.N));
  if (threadIdx.x == 0) own.before[blockIdx.x] = static_cast<unsigned>(firsts);
}

// One warp computes running sums of the blocks' counts, 32 at a time.
__global__ void __launch_bounds__(32)
    sum_blocks_kernel(const UniqueCellsArgs args, const Numbering own, int64_t blocks) {
  unsigned total = 0;
  for (int64_t first = 0; first < blocks; first += 32) {
    const int64_t block = first + lane_id();
    const unsigned count = block < blocks ? own.before[block] : 0;
    unsigned sum = count;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const unsigned earlier = __shfl_up_sync(kFullWarp, sum, distance);
      if (lane_id() >= static_cast<unsigned>(distance)) sum += earlier;
    }
    if (block < blocks) own.before[block] = total + sum - count;
    total += __shfl_sync(kFullWarp, sum, 31);
  }
  if (lane_id() == 0) *args.total = total;
}

// Parallel over cells: the first cells get their numbers.
__global__ void __launch_bounds__(kThreads)
    number_cells_kernel(const UniqueCellsArgs args, const Numbering own) {
  __shared__ unsigned of_warps[kThreads / 32];
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool first = is_first(own, n, args.N);
  const unsigned firsts = __ballot_sync(kFullWarp, first);
  if (lane_id() == 0) of_warps[warp_id()] = __popc(firsts);
  __syncthreads();
  if (!first) return;
  unsigned number = own.before[blockIdx.x] + __popc(firsts & ((1u << lane_id()) - 1));
  for (unsigned warp = 0; warp < warp_id(); ++warp) number += of_warps[warp];
  const unsigned slot = own.slots[n];
  own.numbers[slot] = number;
  args.first[number] = n;
  args.counts[number] = own.counts[slot];
}

// Parallel over cells.
__global__ void __launch_bounds__(kThreads)
    look_up_numbers_kernel(const UniqueCellsArgs args, const Numbering own) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= args.N) return;
  const unsigned slot = own.slots[n];
  args.inverse[n] = slot == kNone ? -1 : static_cast<int64_t>(own.numbers[slot]);
}

// --- neighbors

// Parallel over cells.
__global__ void __launch_bounds__(kThreads)
    insert_centers_kernel(const NeighborMapArgs args, const CellTable table) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (m >= args.M) return;
  const Place at(args.cells, args.scenes, m);
  if (is_cell(at.x, at.y, at.z))
    table.insert(cell_key(at.scene, at.x, at.y, at.z), static_cast<unsigned>(m));
}

// Parallel over cells and their taps.
__global__ void __launch_bounds__(kThreads)
    neighbor_map_kernel(const NeighborMapArgs args, const CellTable table) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.M * kTaps) return;
  const int tap = static_cast<int>(i % kTaps);
  const Place at(args.cells, args.scenes, i / kTaps);
  const int64_t x = at.x + tap / 9 - 1, y = at.y + tap / 3 % 3 - 1, z = at.z + tap % 3 - 1;
  int64_t neighbor = -1;
  if (is_cell(x, y, z)) {
    const unsigned slot = table.find(cell_key(at.scene, x, y, z));
    if (table.first[slot] != kNone) neighbor = table.first[slot];
  }
  args.neighbors[i] = neighbor;
}

unsigned blocks_of(int64_t threads) { return grid_of(ceil_div(threads, kThreads)); }

}  // namespace

void grid_cells(const GridCellsArgs& args, const Context& context) {
  if (args.B * args.N == 0) return;
  auto* corners = static_cast<float*>(context.scratch(3 * args.B * sizeof(float)));
  DAPT_LAUNCH(corners_kernel, grid_of(args.B), kThreads, 0, context.stream, args, corners);
  DAPT_LAUNCH(grid_cells_kernel, blocks_of(args.B * args.N), kThreads, 0, context.stream, args,
              corners);
}

void unique_cells(const UniqueCellsArgs& args, const Context& context) {
  if (args.N == 0) {
    DAPT_CUDA_CHECK(cudaMemsetAsync(args.total, 0, sizeof *args.total, context.stream));
    return;
  }
  const unsigned blocks = blocks_of(args.N);
  const auto words = [&](int64_t count) {
    return static_cast<unsigned*>(context.scratch(count * sizeof(unsigned)));
  };
  Numbering own{.table = make_table(args.N, context),
                .slots = words(args.N),
                .counts = nullptr,
                .numbers = nullptr,
                .before = words(blocks)};
  own.counts = words(own.table.size), own.numbers = words(own.table.size);
  DAPT_CUDA_CHECK(
      cudaMemsetAsync(own.counts, 0, own.table.size * sizeof(unsigned), context.stream));
  DAPT_LAUNCH(insert_cells_kernel, blocks, kThreads, 0, context.stream, args, own);
  DAPT_LAUNCH(count_firsts_kernel, blocks, kThreads, 0, context.stream, args, own);
  DAPT_LAUNCH(sum_blocks_kernel, 1, 32, 0, context.stream, args, own, int64_t{blocks});
  DAPT_LAUNCH(number_cells_kernel, blocks, kThreads, 0, context.stream, args, own);
  DAPT_LAUNCH(look_up_numbers_kernel, blocks, kThreads, 0, context.stream, args, own);
}

void neighbor_map(const NeighborMapArgs& args, const Context& context) {
  if (args.M == 0) return;
  const CellTable table = make_table(args.M, context);
  DAPT_LAUNCH(insert_centers_kernel, blocks_of(args.M), kThreads, 0, context.stream, args, table);
  DAPT_LAUNCH(neighbor_map_kernel, blocks_of(args.M * kTaps), kThreads, 0, context.stream, args,
              table);
}

}  // namespace dapt::cuda
