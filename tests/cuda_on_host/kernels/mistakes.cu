// Kernels with one mistake each, and the report that each should get.
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "exports.h"
#include "gangs.cuh"

#include <functional>
#include <map>

namespace dapt::cuda {

__global__ void barrier_missed_by_exit(int threads) {
  if (int(threadIdx.x) >= threads) return;
  __syncthreads();
}

__global__ void barriers_at_two_places() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_against_collective() {
  if (threadIdx.x == 7) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void collective_with_exited_lane(int* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_sync(kFullWarp, int(threadIdx.x), 0);
}

__global__ void collective_with_wrong_mask(int* out) {
  out[threadIdx.x] = __any_sync(0x0000ffff, 1);
}

__global__ void collectives_of_two_masks() { __syncwarp(lane_id() < 16 ? 0xffffffff : 0xfffffffe); }

__global__ void endless_spin(int* flag) {
  while (atomicAdd(flag, 0) == 0) {
  }
}

__global__ void trap_in_thread(unsigned thread) {
  if (threadIdx.x == thread) __trap();
}

__global__ void too_deep(int* out) {
  volatile char large[140 * 1024];
  for (int i = 0; i < int(sizeof large); ++i) large[i] = char(i);
  *out = large[threadIdx.x];
}

__global__ void garbage_for_an_index(int* out) {
  __shared__ int index;
  out[static_cast<long long>(index) << 30] = 1;
  index = 0;
}

__global__ void division_by_zero(int* out) { out[1] = 100 / out[0]; }

__global__ void cluster_barrier_missed() {
  if (cluster_rank() != 1) cluster_sync();
}

__global__ void grid_barrier_missed() {
  if (blockIdx.x != 2) grid_sync();
}

__global__ void map_of_global_memory(int* out) { *map_shared(out, 0) = 1; }

__global__ void reads_block_that_may_have_ended(int* out) {
  __shared__ int fixed;
  DAPT_DYNAMIC_SHARED(int, dynamic);
  fixed = dynamic[0] = 42;
  cluster_sync();
  out[blockIdx.x] = *map_shared(&fixed, 1 - cluster_rank());
  out[2 + blockIdx.x] = *map_shared(dynamic, 1 - cluster_rank());
}

__global__ void writes_block_that_may_not_have_started(int* out) {
  __shared__ int inbox;
  *map_shared(&inbox, 1 - cluster_rank()) = 42;
  cluster_sync();
  out[blockIdx.x] = inbox;
}

__global__ void writes_at(int* global, int global_index, int shared_index, int static_index) {
  __shared__ int fixed[8];
  DAPT_DYNAMIC_SHARED(int, dynamic);
  dynamic[shared_index] = 1;
  fixed[static_index] = 1;
  __syncthreads();
  global[global_index] = fixed[static_index] + dynamic[shared_index];
}

__global__ void nothing() {}

}  // namespace dapt::cuda

using namespace dapt::cuda;

// `out` has 64 values.
EXPORT const char* run_mistake(const char* name, int* out) {
  const std::map<std::string, std::function<void()>> mistakes = {
      {"barrier_missed_by_exit",
       [] { DAPT_LAUNCH(barrier_missed_by_exit, 2, 64, 0, nullptr, 33); }},
      {"barriers_at_two_places", [] { DAPT_LAUNCH(barriers_at_two_places, 1, 64, 0, nullptr); }},
      {"barrier_against_collective",
       [] { DAPT_LAUNCH(barrier_against_collective, 1, 32, 0, nullptr); }},
      {"collective_with_exited_lane",
       [=] { DAPT_LAUNCH(collective_with_exited_lane, 1, 32, 0, nullptr, out); }},
      {"collective_with_wrong_mask",
       [=] { DAPT_LAUNCH(collective_with_wrong_mask, 1, 32, 0, nullptr, out); }},
      {"collectives_of_two_masks",
       [] { DAPT_LAUNCH(collectives_of_two_masks, 1, 32, 0, nullptr); }},
      {"endless_spin", [=] { DAPT_LAUNCH(endless_spin, 1, 64, 0, nullptr, out); }},
      {"trap_in_thread", [] { DAPT_LAUNCH(trap_in_thread, 1, 64, 0, nullptr, 21u); }},
      {"too_deep", [=] { DAPT_LAUNCH(too_deep, 1, 1, 0, nullptr, out); }},
      {"garbage_for_an_index", [=] { DAPT_LAUNCH(garbage_for_an_index, 1, 1, 0, nullptr, out); }},
      {"division_by_zero", [=] { DAPT_LAUNCH(division_by_zero, 1, 1, 0, nullptr, out); }},
      {"cluster_barrier_missed",
       [] { DAPT_LAUNCH_CLUSTER(cluster_barrier_missed, 4, 4, 32, 0, nullptr); }},
      {"grid_barrier_missed",
       [] { DAPT_LAUNCH_COOPERATIVE(grid_barrier_missed, 3, 32, 0, nullptr); }},
      {"grid_barrier_without_cooperation",
       [] { DAPT_LAUNCH(grid_barrier_missed, 2, 32, 0, nullptr); }},
      {"map_of_global_memory",
       [=] { DAPT_LAUNCH_CLUSTER(map_of_global_memory, 2, 2, 1, 0, nullptr, out); }},
      {"reads_block_that_may_have_ended",
       [=] {
         DAPT_LAUNCH_CLUSTER(reads_block_that_may_have_ended, 2, 2, 1, sizeof(int), nullptr, out);
       }},
      {"writes_block_that_may_not_have_started",
       [=] {
         DAPT_LAUNCH_CLUSTER(writes_block_that_may_not_have_started, 2, 2, 1, 0, nullptr, out);
       }},
  };
  return message_of([&] { mistakes.at(name)(); });
}

// Writes one value each to arrays of 64, 16 and 8 values, at the given indices.
EXPORT const char* run_writes_at(int* global, int global_index, int shared_index,
                                 int static_index) {
  return message_of([&] {
    DAPT_LAUNCH(writes_at, 1, 1, 16 * sizeof(int), nullptr, global, global_index, shared_index,
                static_index);
  });
}

// A launch of any shape.
EXPORT const char* run_nothing(const unsigned* grid, const unsigned* block,
                               std::size_t shared_bytes, unsigned cluster, bool cooperative) {
  return message_of([&] {
    launch("nothing", nothing,
           LaunchShape{dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]),
                       shared_bytes, nullptr, cluster, cooperative});
  });
}
