// How the patch encoder is launched: a pure function of shape and device. No CUDA header.
//
// A block takes a few whole patches through all four layers in shared memory; packed weights come
// from L2. With 128 points per block and warps that each hold 64 x 32 sums, each half of a block's
// points reads every weight once. Estimates for an H100 at B = 32, G = 128, K = 32, C = 384 in
// bfloat16: 78 GFLOP; 1 GB of weights from L2, about 0.2 ms; shared memory and tensor cores
// together, about 0.4 ms; 1.6 MB read from and 3.1 MB written to global memory, where the
// layer-by-layer module moves over 2.5 GB.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/device.h"
#include "cuda/plan_product.h"

namespace dapt::cuda {

constexpr int kMostPatches = 16;  // a block's patches are the rows of one left factor

struct EncoderPlan {
  int rows;     // points in shared memory at a time, a multiple of 16
  int patches;  // per block
  int chunks;   // of a patch with more points than `rows`
  // elements between rows of the factors of each layer
  int input_stride, first_stride, middle_stride, last_stride;
  int middle_width, last_width, token_width;  // padded
  // byte offsets in shared memory, part of which several layers use in turn
  int first_at, whole_at, maxima_at;
  size_t shared_bytes;
};

constexpr EncoderPlan plan_encoder_with(int rows, const PatchEncoderArgs& a) {
  const ProductShape shape = product_shape(a.compute, a.tf32);
  EncoderPlan plan{};
  plan.rows = rows;
  plan.patches = a.K > rows ? 1 : static_cast<int>(std::min<int64_t>(rows / a.K, kMostPatches));
  plan.chunks = static_cast<int>(ceil_div(a.K, rows));
  if (plan.chunks == 1) plan.rows = static_cast<int>(round_up(plan.patches * a.K, kTileRows));
  const auto stride = [&](int64_t width) { return static_cast<int>(row_stride(width, shape)); };
  const auto padded = [&](int64_t width) { return static_cast<int>(padded_width(width, shape)); };
  plan.input_stride = stride(a.D), plan.first_stride = stride(a.first);
  plan.middle_stride = stride(a.middle), plan.last_stride = stride(a.last);
  plan.middle_width = padded(a.middle), plan.last_width = padded(a.last);
  plan.token_width = padded(a.C);
  const int64_t row_bytes = int64_t{plan.rows} * shape.element_bytes;
  const int64_t first_at = std::max(row_bytes * std::max(plan.input_stride, plan.last_stride),
                                    int64_t{kTileRows} * plan.middle_stride * shape.element_bytes);
  const int64_t whole_at = first_at + row_bytes * plan.first_stride;
  const int64_t maxima_at = whole_at + int64_t{plan.patches} * plan.last_width * shape.sum_bytes;
  const int64_t end = maxima_at + int64_t{plan.patches} *
                                      std::max(plan.middle_width, plan.token_width) *
                                      shape.sum_bytes;
  plan.first_at = static_cast<int>(std::min<int64_t>(first_at, INT32_MAX));
  plan.whole_at = static_cast<int>(std::min<int64_t>(whole_at, INT32_MAX));
  plan.maxima_at = static_cast<int>(std::min<int64_t>(maxima_at, INT32_MAX));
  plan.shared_bytes = static_cast<size_t>(end);
  return plan;
}

/// As many points per block as fit, but not so many that multiprocessors are left without a block.
inline EncoderPlan plan_encoder(const PatchEncoderArgs& a, const Device& device) {
  for (int rows = 128; rows >= kTileRows; rows /= 2) {
    const EncoderPlan plan = plan_encoder_with(rows, a);
    const bool idle = rows > 32 && ceil_div(a.P, plan.patches) < device.multiprocessors;
    if (plan.shared_bytes <= size_t(device.shared_per_block) && !idle) return plan;
  }
  throw std::length_error(
      "a patch encoder of widths " + std::to_string(a.D) + ", " + std::to_string(a.first) + ", " +
      std::to_string(a.middle) + ", " + std::to_string(a.last) + ", " + std::to_string(a.C) +
      " does not fit the GPU's shared memory of " + std::to_string(device.shared_per_block) +
      " bytes a block; use a narrower dtype");
}

inline std::string describe(const EncoderPlan& plan) {
  return std::to_string(plan.patches) + (plan.patches == 1 ? " patch" : " patches") + " a block, " +
         std::to_string(plan.rows) + " points at a time, " + std::to_string(plan.chunks) +
         (plan.chunks == 1 ? " chunk, " : " chunks, ") + std::to_string(plan.shared_bytes) +
         " bytes of shared memory";
}

void patch_encoder(const PatchEncoderArgs& args, const EncoderPlan& plan, const Context& context);

}  // namespace dapt::cuda
