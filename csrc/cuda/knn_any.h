// k nearest neighbors of vectors of any dimension on CUDA.
#pragma once

#include "cuda/launch.h"
#include "ops.h"

namespace dapt::cuda {

/// As `knn`, for any D; it gives distances and makes no patches.
void knn_any(const KnnArgs& args, const Context& context);

}  // namespace dapt::cuda
