// Blocks that work together: the clusters of compute capability 9.0 (DAPT_LAUNCH_CLUSTER) and whole
// cooperative grids (DAPT_LAUNCH_COOPERATIVE). On older devices the cluster functions stop the
// kernel.
//
// A block may touch another's shared memory only between two barriers of the cluster: after the
// first all blocks have started, before the last none has ended.
#pragma once

#include "cuda/launch.h"

#ifdef __CUDACC__
#include <cooperative_groups.h>

#if __CUDA_ARCH__ >= 900
#define DAPT_CLUSTER(expression) expression
#else
#define DAPT_CLUSTER(expression) __trap()
#endif

namespace dapt::cuda {

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
  DAPT_CLUSTER(rank = __clusterRelativeBlockRank());
  return rank;
}
__device__ __forceinline__ unsigned cluster_size() {
  unsigned size = 1;
  DAPT_CLUSTER(size = __clusterSizeInBlocks());
  return size;
}

// The two halves of a barrier: what a thread wrote before it arrives is seen by all that have
// waited.
__device__ __forceinline__ void cluster_arrive() { DAPT_CLUSTER(__cluster_barrier_arrive()); }
__device__ __forceinline__ void cluster_wait() { DAPT_CLUSTER(__cluster_barrier_wait()); }

// Where block `rank` of the cluster has what this block has at `address` in its shared memory.
template <class T>
__device__ __forceinline__ T* map_shared(T* address, unsigned rank) {
  T* mapped = address;
  DAPT_CLUSTER(mapped = static_cast<T*>(__cluster_map_shared_rank(address, rank)));
  return mapped;
}

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

}  // namespace dapt::cuda

#undef DAPT_CLUSTER

#else

namespace dapt::cuda {

using on_host::cluster_rank;
using on_host::cluster_size;

inline void cluster_arrive(on_host::Where where = on_host::Where::current()) {
  on_host::cluster_arrive(where);
}
inline void cluster_wait(on_host::Where where = on_host::Where::current()) {
  on_host::cluster_wait(where);
}
inline void cluster_sync(on_host::Where where = on_host::Where::current()) {
  on_host::cluster_arrive(where);
  on_host::cluster_wait(where);
}
template <class T>
T* map_shared(T* address, unsigned rank) {
  return static_cast<T*>(on_host::map_shared(address, rank));
}
inline void grid_sync(on_host::Where where = on_host::Where::current()) {
  on_host::grid_barrier(where);
}

}  // namespace dapt::cuda

#endif
