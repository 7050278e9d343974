// The keywords that CUDA adds to C++.
#pragma once

#ifndef DAPT_ON_HOST
#define DAPT_ON_HOST
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// A launch runs on one OS thread, so the thread-local image of this binary contains every static
// shared variable and nothing else that kernels use. shared_memory.h poisons it for each block,
// gives each block of a cluster or grid its own copy, and restores it after the launch.
#define __shared__ static thread_local
