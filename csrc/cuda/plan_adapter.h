// How the adapter is launched: a pure function of shape and device. No CUDA header.
//
// A block takes 16 tokens of one cloud through all steps; packed weights come from L2, and blocks
// on the same multiprocessor share them in L1. Estimates for an H100 at B = 32, T = 137, C = 384,
// r = 64 in bfloat16, where all 288 tiles fit on the chip at once:
//   forward   0.43 GFLOP, 13.5 MB of activations (4.5 us at 3 TB/s), 28 MB of weights from L2
//             (5 us, overlapped); with packing and the prompt's sum, about 10 us in 3 launches
//   backward  0.86 GFLOP (1.3 with a prompt), 24 MB of rows and 11 MB of partial sums in L2; rows 8
//             us, weights 5, sums 2, packing 2: about 17 us in 4 launches
// The eager module takes about 13 launches forward and 28 backward at 3 to 5 us each: over 150 us.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/device.h"
#include "cuda/plan_product.h"

namespace dapt::cuda {

constexpr int kAdapterThreads = 256;
constexpr int kOuterTile = 64;    // rows and columns of a weight's gradient in one block
constexpr int kOuterTokens = 32;  // in shared memory at a time

struct AdapterPlan {
  int64_t clouds, tokens;                    // per cloud; one cloud if clouds do not matter
  int64_t cloud_tiles, tiles;                // per cloud, and in total
  int wide_width, wide_stride;               // of rows of C elements in shared memory
  int narrow_width, narrow_stride;           // of rows of r
  int wide_sum_stride, narrow_sum_stride;    // of the same rows as sums
  size_t forward_bytes, backward_bytes;      // of shared memory
  int64_t backward_blocks, tiles_per_block;  // each block sums the gradients of a run of tiles
  int64_t splits, tokens_per_split;          // of the sum over tokens in a weight's gradient
};

inline AdapterPlan plan_adapter(const DynamicAdapterArgs& a, bool by_cloud, const Device& device) {
  const ProductShape shape = product_shape(a.compute, a.tf32);
  const ProductShape sums{shape.sum_bytes, shape.sum_bytes, shape.block};
  const int64_t tokens = a.B * a.T;
  AdapterPlan plan{};
  plan.clouds = by_cloud ? a.B : 1;
  plan.tokens = by_cloud ? a.T : tokens;
  plan.cloud_tiles = ceil_div(plan.tokens, kTileRows);
  plan.tiles = plan.clouds * plan.cloud_tiles;

  const int64_t wide = kTileRows * row_stride(a.C, shape),
                narrow = kTileRows * row_stride(a.r, shape);
  const int64_t wide_sums = kTileRows * row_stride(a.C, sums);
  const int64_t narrow_sums = kTileRows * row_stride(a.r, sums);
  plan.forward_bytes = static_cast<size_t>((wide + narrow) * shape.element_bytes);
  plan.backward_bytes =
      static_cast<size_t>(std::max(wide * shape.element_bytes, wide_sums * shape.sum_bytes) +
                          2 * narrow * shape.element_bytes + narrow_sums * shape.sum_bytes);
  const size_t most = std::max(plan.forward_bytes, plan.backward_bytes) + 4096;  // plus static
  if (most > static_cast<size_t>(device.shared_per_block)) {
    throw std::length_error("an adapter of width " + std::to_string(a.C) + " and rank " +
                            std::to_string(a.r) + " needs " + std::to_string(most) +
                            " bytes of the GPU's shared memory, a block has " +
                            std::to_string(device.shared_per_block) + "; use a narrower dtype");
  }
  plan.wide_width = static_cast<int>(padded_width(a.C, shape));
  plan.wide_stride = static_cast<int>(wide / kTileRows);
  plan.narrow_width = static_cast<int>(padded_width(a.r, shape));
  plan.narrow_stride = static_cast<int>(narrow / kTileRows);
  plan.wide_sum_stride = static_cast<int>(wide_sums / kTileRows);
  plan.narrow_sum_stride = static_cast<int>(narrow_sums / kTileRows);

  plan.tiles_per_block = std::max<int64_t>(1, ceil_div(plan.tiles, 4 * device.multiprocessors));
  plan.backward_blocks = ceil_div(plan.tiles, plan.tiles_per_block);
  // Two blocks per multiprocessor for the gradients of both weights, each with at least 64 tokens.
  const int64_t tiles = 2 * ceil_div(a.C, kOuterTile) * ceil_div(a.r, kOuterTile);
  const int64_t wanted =
      std::clamp<int64_t>(tokens / 64, 1, ceil_div(2 * device.multiprocessors, tiles));
  plan.tokens_per_split = std::max<int64_t>(1, round_up(ceil_div(tokens, wanted), kOuterTokens));
  plan.splits = ceil_div(tokens, plan.tokens_per_split);
  return plan;
}

inline AdapterPlan plan_adapter(const DynamicAdapterArgs& a, const Device& device) {
  return plan_adapter(a, a.path_factor || a.prompt_mean || a.adapters, device);
}
inline AdapterPlan plan_adapter(const DynamicAdapterBackwardArgs& g, const Device& device) {
  return plan_adapter(g.forward, g.forward.path_factor || g.grad_prompt_mean, device);
}

inline std::string describe(const AdapterPlan& plan) {
  return std::to_string(plan.tiles) + " tiles, " + std::to_string(plan.forward_bytes) +
         " bytes of shared memory forward and " + std::to_string(plan.backward_bytes) +
         " backward in " + std::to_string(plan.backward_blocks) + " blocks, " +
         std::to_string(plan.splits) + " splits of " + std::to_string(plan.tokens_per_split) +
         " tokens";
}

void dynamic_adapter(const DynamicAdapterArgs& args, const AdapterPlan& plan,
                     const Context& context);
void dynamic_adapter_backward(const DynamicAdapterBackwardArgs& args, const AdapterPlan& plan,
                              const Context& context);

}  // namespace dapt::cuda
