// What the tests need of clusters and cooperative grids beyond csrc/cuda/cluster.cuh.
#pragma once

#include "cuda/cluster.cuh"

#ifdef __CUDACC__
#include <cooperative_groups.h>
#endif

namespace dapt::cuda {

#ifdef __CUDACC__

__device__ __forceinline__ unsigned cluster_size() {
#if __CUDA_ARCH__ >= 900
  return __clusterSizeInBlocks();
#else
  return 1;
#endif
}

// The address in block `rank` of the cluster that corresponds to `address` in this block's shared
// memory.
template <class T>
__device__ __forceinline__ T* map_shared(T* address, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  return static_cast<T*>(__cluster_map_shared_rank(address, rank));
#else
  return address;
#endif
}

__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

#else

using on_host::cluster_size;

template <class T>
T* map_shared(T* address, unsigned rank) {
  return static_cast<T*>(on_host::map_shared(address, rank));
}

inline void grid_sync(on_host::Where where = on_host::Where::current()) {
  on_host::grid_barrier(where);
}

#endif

}  // namespace dapt::cuda
