// CUDA's execution model on a CPU, to test kernels without a GPU: every file of csrc/cuda compiles
// with
//   g++ -x c++ -std=c++20 -ffp-contract=off -Icsrc fps.cu ... csrc/cuda_on_host/*.cpp
// Threads of a block are fibers on one stack each. They run in a random order, drawn anew wherever
// they wait for each other, so a missing barrier shows as a wrong answer under some seed. It tests
// logic: neither speed nor the memory model.
#pragma once

#include "cuda_on_host/qualifiers.h"
//
#include "cuda_on_host/atomics.h"
#include "cuda_on_host/device.h"
#include "cuda_on_host/execution.h"
#include "cuda_on_host/half.h"
#include "cuda_on_host/intrinsics.h"
#include "cuda_on_host/sync.h"
#include "cuda_on_host/types.h"
