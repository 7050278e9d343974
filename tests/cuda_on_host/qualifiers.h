// The words that CUDA adds to C++.
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

// A launch runs on one thread of the operating system, so the thread-local image of this binary
// holds every static shared variable and nothing that kernels use otherwise. shared_memory.h
// poisons it for each block, gives each block of a cluster or grid its own copy, and puts it back
// after the launch.
#define __shared__ static thread_local
