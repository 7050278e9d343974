// Cooperating blocks: clusters via each other's shared memory, a grid via barriers.
#include "cuda/launch.h"
#include "exports.h"
#include "gangs.cuh"

namespace dapt::cuda {

// A cluster rotates values: after `steps`, each block has the values of the block `steps` before
// it, once via a static shared variable and once via dynamic shared memory.
__global__ void rotate(const int* values, int* out, int steps) {  // [blocks, threads], [2, ...]
  __shared__ int inbox[2][64];
  DAPT_DYNAMIC_SHARED(int, dynamic_inbox);
  const unsigned next = (cluster_rank() + 1) % cluster_size();
  const int place = blockIdx.x * blockDim.x + threadIdx.x;
  int value = values[place], dynamic_value = value;
  cluster_sync();  // 1: all blocks have started
  for (int step = 0; step < steps; ++step) {
    *map_shared(&inbox[step % 2][threadIdx.x], next) = value;
    map_shared(dynamic_inbox, next)[step % 2 * blockDim.x + threadIdx.x] = dynamic_value;
    cluster_arrive();
    cluster_wait();  // 2: all values are delivered
    value = inbox[step % 2][threadIdx.x];
    dynamic_value = dynamic_inbox[step % 2 * blockDim.x + threadIdx.x];
  }
  out[place] = value;
  out[gridDim.x * blockDim.x + place] = dynamic_value;
}

// A cooperative grid: `steps` times, every thread adds its left neighbor's value to its own.
__global__ void cascade(int* values, int steps) {
  __shared__ int kept[32];  // one copy per block, although all are alive
  const int place = blockIdx.x * blockDim.x + threadIdx.x;
  const int count = gridDim.x * blockDim.x;
  for (int step = 0; step < steps; ++step) {
    kept[threadIdx.x] = values[(place + count - 1) % count];
    grid_sync();  // 1: all have read
    values[place] += kept[threadIdx.x];
    grid_sync();  // 2: all have written
  }
}

}  // namespace dapt::cuda

using namespace dapt::cuda;

EXPORT const char* run_rotate(const int* values, int* out, int clusters, int size, int threads,
                              int steps) {
  return message_of([&] {
    DAPT_LAUNCH_CLUSTER(rotate, unsigned(size), clusters * size, threads, threads * 2 * sizeof(int),
                        nullptr, values, out, steps);
  });
}
EXPORT const char* run_cascade(int* values, int blocks, int threads, int steps) {
  return message_of(
      [&] { DAPT_LAUNCH_COOPERATIVE(cascade, blocks, threads, 0, nullptr, values, steps); });
}
