// Which rows a thread handles in kernels that move or sum rows of channels.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace dapt::cuda {

/// Each block handles rows of a single cloud. A team of threads handles one row, and each of its
/// threads every team-th vector of that row.
struct TeamRow {
  int64_t b, row;  // cloud, and row within it
  int rank;        // of the thread within its team

  /// `blocks` blocks share the rows of a cloud, `rows` rows each.
  __device__ __forceinline__ TeamRow(unsigned blocks, int rows, int team)
      : b(blockIdx.x / blocks),
        row(static_cast<int64_t>(blockIdx.x % blocks) * rows + threadIdx.x / team),
        rank(static_cast<int>(threadIdx.x) % team) {}
};

}  // namespace dapt::cuda
