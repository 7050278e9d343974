// k nearest neighbors of vectors of any dimension on CUDA.
#pragma once

#include "cuda/launch.h"
#include "ops.h"

namespace dapt::cuda {

/// Like `knn`, but for any D; writes distances but no patches.
void knn_any(const KnnArgs& args, const Context& context);

}  // namespace dapt::cuda
