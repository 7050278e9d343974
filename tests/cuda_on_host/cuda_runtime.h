// CUDA's execution model on a CPU, for testing kernels without a GPU. Every file of csrc/cuda
// compiles with
//   g++ -x c++ -std=c++20 -ffp-contract=off -fvisibility=hidden -Icsrc fps.cu ...
//   cuda_on_host/*.cpp
// A thread is a fiber. One runs at a time, in a random order that changes wherever threads wait for
// each other, so that a missing barrier gives a wrong result under some seed.
//
// Requirements: hidden symbols, so that no other library shares a kernel's static shared variables;
// spinning only on atomics, or with on_host::yield() in the loop; and host bodies for wrappers of
// instructions that only CUDA has, such as mma. With -fsanitize=address,undefined, wrong indices
// are found: the former watches global and dynamic shared memory, the latter arrays of known size.
//
// Not modeled: speed, registers, the memory model (all threads see a write at once), and any
// interleaving finer than from one wait to the next.
#pragma once

#include "cuda_on_host/qualifiers.h"
//
#include "cuda_on_host/atomics.h"
#include "cuda_on_host/device.h"
#include "cuda_on_host/execution.h"
#include "cuda_on_host/half.h"
#include "cuda_on_host/intrinsics.h"
#include "cuda_on_host/sync.h"
#include "cuda_on_host/tensor_cores.h"
#include "cuda_on_host/types.h"
