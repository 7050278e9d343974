// Positions of cells along space-filling curves on CUDA.
#include "cells.h"
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "ops.h"

namespace dapt::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ uint64_t place_of(Curve curve, uint32_t x, uint32_t y, uint32_t z,
                                             uint32_t depth) {
  if (curve % 2 == 1) {
    const uint32_t swapped = x;
    x = y, y = swapped;
  }
  if (curve < hilbert) return interleave(x, y, z);
  for (uint32_t bit = depth; bit-- > 0;) {
    uint32_t itself = x;
    turn(bit, ~0u, x, itself);
    turn(bit, ~0u, x, y);
    turn(bit, ~0u, x, z);
  }
  return from_gray(interleave(x, y, z));
}

// Parallel over cells.
__global__ void __launch_bounds__(kThreads) curve_codes_kernel(const CurveCodesArgs args) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (m >= args.M) return;
  constexpr int64_t kBits = kMostCells - 1;
  const int64_t scene = args.scenes ? args.scenes[m] & (kMostScenes - 1) : 0;
  const int64_t depth = args.depths[min(scene, args.B - 1)];
  const auto axis = [&](int i) { return static_cast<uint32_t>(args.cells[3 * m + i] & kBits); };
  const uint32_t x = axis(0), y = axis(1), z = axis(2);
  for (int64_t k = 0; k < args.K; ++k) {
    const uint64_t place =
        place_of(args.curves[k], x, y, z,
                 static_cast<uint32_t>(min(max(depth, int64_t{0}), int64_t{kCellBits})));
    args.codes[k * args.M + m] = scene << 3 * kCellBits | static_cast<int64_t>(place);
  }
}

}  // namespace

void curve_codes(const CurveCodesArgs& args, const Context& context) {
  if (args.M == 0) return;
  DAPT_LAUNCH(curve_codes_kernel, grid_of(ceil_div(args.M, kThreads)), kThreads, 0, context.stream,
              args);
}

}  // namespace dapt::cuda
