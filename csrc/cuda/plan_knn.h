// How kNN and ball query are launched: pure functions of shape and device. No CUDA header.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cuda/device.h"
#include "cuda/dispatch.h"
#include "ops.h"

namespace dapt::cuda {

struct KnnPlan {
  enum class Kernel { thread_per_query, warp_per_query };
  Kernel kernel;
  int keys;        // per thread: k = 1 to 4, or with a warp per query 1, 2, 4, 8 or 16 rows of 32
  int warps;       // per block
  int tile;        // points in shared memory at a time, a multiple of 128
  int64_t splits;  // of a cloud, each searched by different blocks; their lists are merged
};

constexpr int kMaxKeys = 16;
constexpr int kMaxWarps = 16, kMaxThreadWarps = 8;  // with a warp, and with a thread per query
constexpr int kTileStep = 128;

constexpr int tile_of(int64_t N, int most) {
  return static_cast<int>(std::clamp<int64_t>(ceil_div(N, kTileStep) * kTileStep, kTileStep, most));
}

/// Warps per block of a kernel with a warp per query. Up to 16 share a tile, but only 8 if 16 would
/// leave multiprocessors without a block or need so many registers that only one block fits on
/// each. Even for few queries, a block has enough warps to load a tile well.
constexpr int warps_of(int64_t B, int64_t M, int keys, int tile, const Device& device) {
  const bool many = keys < 8 && B * ceil_div(M, kMaxWarps) >= device.multiprocessors;
  return static_cast<int>(
      std::clamp<int64_t>(M, std::min(8, tile / kTileStep), many ? kMaxWarps : 8));
}

/// - k <= 4 and at least 128 queries per multiprocessor: a thread per query.
/// - Otherwise a warp per query with the smallest list that holds k, up to 512 keys; a larger k
///   takes several passes, each starting where the last one ended.
/// - If the queries alone make at most half a block per multiprocessor, a cloud is split into parts
///   of at least 4096 points and 8 k. With more blocks, filling a list for each part would cost
///   more than the idle multiprocessors do (benchmarks/plans.cu on an H200).
constexpr KnnPlan plan_knn(int64_t B, int64_t M, int64_t N, int64_t k, const Device& device) {
  if (k <= 4 && B * M >= 128 * static_cast<int64_t>(device.multiprocessors)) {
    return {.kernel = KnnPlan::Kernel::thread_per_query,
            .keys = static_cast<int>(k),
            .warps = static_cast<int>(std::clamp<int64_t>(ceil_div(M, 32), 1, kMaxThreadWarps)),
            .tile = tile_of(N, 1024),
            .splits = 1};
  }
  KnnPlan plan{.kernel = KnnPlan::Kernel::warp_per_query,
               .keys = 1,
               .warps = 0,
               .tile = tile_of(N, device.shared_per_block >= 160 * 1024 ? 4096 : 2048),
               .splits = 1};
  while (plan.keys < kMaxKeys && 32 * plan.keys < k) plan.keys *= 2;
  plan.warps = warps_of(B, M, plan.keys, plan.tile, device);
  const int64_t blocks = std::max<int64_t>(B * ceil_div(M, plan.warps), 1);
  const int64_t wanted = std::max<int64_t>(device.multiprocessors / blocks, 1);
  plan.splits = std::clamp<int64_t>(N / std::max<int64_t>(4096, 8 * k), 1, wanted);
  return plan;
}

inline std::string describe(const KnnPlan& plan) {
  const bool warp = plan.kernel == KnnPlan::Kernel::warp_per_query;
  return std::string(warp ? "a warp" : "a thread") + " per query, " + std::to_string(plan.keys) +
         (warp ? " keys a lane, " : " keys, ") + std::to_string(plan.warps) +
         " warps a block, tiles of " + std::to_string(plan.tile) + " points, " +
         std::to_string(plan.splits) + (plan.splits == 1 ? " part" : " parts") + " a cloud";
}

void knn(const KnnArgs& args, const KnnPlan& plan, const Context& context);

struct BallQueryPlan {
  int warps;  // per block, one query each
  int tile;   // points in shared memory at a time, a multiple of 128
};

/// Tiles are small because most queries have K hits long before the end of a cloud.
constexpr BallQueryPlan plan_ball_query(int64_t B, int64_t M, int64_t N, const Device& device) {
  const int tile = tile_of(N, 1024);
  return {.warps = warps_of(B, M, 1, tile, device), .tile = tile};
}

inline std::string describe(const BallQueryPlan& plan) {
  return "a warp per query, " + std::to_string(plan.warps) + " warps a block, tiles of " +
         std::to_string(plan.tile) + " points";
}

void ball_query(const BallQueryArgs& args, const BallQueryPlan& plan, const Context& context);

}  // namespace dapt::cuda
