// Blocks that work together: the clusters of compute capability 9.0 (DAPT_LAUNCH_CLUSTER). In code
// compiled for older devices, the cluster functions abort the kernel.
//
// A block may access another's shared memory only between two barriers of the cluster: the first
// ensures that every block has started, the last that none has exited yet.
#pragma once

#include "cuda/launch.h"

#ifdef __CUDACC__

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

// The two halves of a barrier: what a thread writes before it arrives is visible to every thread
// that has waited.
__device__ __forceinline__ void cluster_arrive() { DAPT_CLUSTER(__cluster_barrier_arrive()); }
__device__ __forceinline__ void cluster_wait() { DAPT_CLUSTER(__cluster_barrier_wait()); }

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

}  // namespace dapt::cuda

#undef DAPT_CLUSTER

#else

namespace dapt::cuda {

using on_host::cluster_rank;

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

}  // namespace dapt::cuda

#endif
