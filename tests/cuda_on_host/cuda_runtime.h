// CUDA's execution model on a CPU, to test kernels without a GPU: every file of csrc/cuda compiles
// with
//   g++ -x c++ -std=c++20 -ffp-contract=off -fvisibility=hidden -Icsrc fps.cu ...
//   cuda_on_host/*.cpp
// A thread is a fiber. One runs at a time, in a random order that is drawn anew wherever threads
// wait for each other, so that a missing barrier shows as a wrong answer under some seed.
//
// What it needs: hidden symbols, so that no other library shares a kernel's static shared
// variables; spinning only on atomics, or with on_host::yield() in the loop; wrappers with a host
// body for what is CUDA's alone, such as mma. With -fsanitize=address,undefined it finds a wrong
// index: the first half watches global and dynamic shared memory, the second the arrays of known
// size.
//
// What it does not show: speed, registers, the memory model (one thread's writes are seen by all at
// once), and what only a smaller step than from one wait to the next would interleave.
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
