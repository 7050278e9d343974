// Launch plans of farthest point sampling: pure functions of shape and device, no CUDA header.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>

#include "cuda/device.h"
#include "cuda/dispatch.h"
#include "ops.h"

namespace dapt::cuda {

/// Where a cloud is while it is sampled: in the registers of one block, of a cluster of blocks that
/// write into each other's shared memory, of blocks that meet in global memory, or (streamed) in
/// global memory itself.
enum class FpsVersion { block, cluster, grid, streamed };

/// One compiled kernel.
struct FpsKernel {
  FpsVersion version;
  int threads;            // per block
  int points_per_thread;  // 0: any number
  int blocks_per_cloud;   // 0: as many as a cloud needs

  bool operator==(const FpsKernel&) const = default;
};

/// Every kernel that is compiled; of those that a plan rates equal it takes the first.
constexpr FpsKernel kFpsKernels[] = {
    {FpsVersion::block, 128, 4, 1},     {FpsVersion::block, 128, 8, 1},
    {FpsVersion::block, 128, 16, 1},    {FpsVersion::block, 256, 8, 1},
    {FpsVersion::block, 256, 16, 1},    {FpsVersion::block, 512, 16, 1},
    {FpsVersion::block, 1024, 8, 1},    {FpsVersion::cluster, 256, 8, 4},
    {FpsVersion::cluster, 512, 8, 4},   {FpsVersion::cluster, 512, 16, 4},
    {FpsVersion::cluster, 512, 24, 4},  {FpsVersion::cluster, 512, 8, 16},
    {FpsVersion::cluster, 512, 16, 16}, {FpsVersion::cluster, 512, 24, 16},
    {FpsVersion::grid, 512, 8, 0},      {FpsVersion::grid, 512, 16, 0},
    {FpsVersion::grid, 512, 20, 0},     {FpsVersion::streamed, 1024, 0, 0},
};

/// Up to so many points of a block are padded to one access of 16 bytes in its shared memory.
constexpr int kMostPadded = 4096;

struct FpsPlan {
  FpsKernel kernel;
  int64_t blocks_per_cloud;
  int64_t clouds_at_once;  // blocks_per_cloud * clouds_at_once blocks are launched
  size_t shared_bytes;     // dynamic, per block
  int64_t cycles;          // estimate for one sample of every cloud
};

/// How `kernel` samples B clouds of N points on `device`; nothing where it cannot.
inline std::optional<FpsPlan> plan_fps_with(const FpsKernel& kernel, int64_t B, int64_t N,
                                            const Device& device) {
  const int64_t threads = kernel.threads, multiprocessors = device.multiprocessors;
  int64_t points = kernel.points_per_thread, blocks = kernel.blocks_per_cloud;
  int64_t most_blocks = 1, shared_bytes = 0;
  int64_t latency = 0;     // cycles of a step in which every warp waits
  int64_t per_point = 10;  // instructions: 7 for the distance, 3 to keep the farthest
  switch (kernel.version) {
    case FpsVersion::block:
      shared_bytes = 512 + (threads * points <= kMostPadded ? 16 : 12) * N;  // keys and points
      latency = 330;
      break;
    case FpsVersion::cluster:
      most_blocks = device.max_cluster;
      shared_bytes = 12 * threads * points;
      latency = 850;
      break;
    case FpsVersion::grid:
      blocks = ceil_div(N, threads * points);
      most_blocks = threads;  // each thread waits for one block's key
      latency = 1800 + 15 * blocks;
      break;
    case FpsVersion::streamed:
      blocks = std::min(multiprocessors, ceil_div(N, threads));
      points = ceil_div(N, blocks * threads);
      most_blocks = threads;
      latency = 3000 + 12 * blocks;
      per_point = 40;
      break;
  }
  constexpr int64_t kStaticShared = 2048;
  if (blocks * threads * points < N || blocks > std::min(most_blocks, multiprocessors) ||
      shared_bytes + kStaticShared > device.shared_per_block) {
    return std::nullopt;
  }
  const bool streamed = kernel.version == FpsVersion::streamed;
  const int64_t resident = streamed ? 1 : multiprocessors / blocks;  // clouds
  const bool persistent = streamed || kernel.version == FpsVersion::grid;
  return FpsPlan{
      .kernel = kernel,
      .blocks_per_cloud = blocks,
      .clouds_at_once = persistent ? std::min(B, resident) : B,
      .shared_bytes = size_t(shared_bytes),
      // A multiprocessor issues for 4 warps at a time; 50 instructions of a warp's step are not
      // about its points.
      .cycles = ceil_div(B, resident) * (latency + threads / 128 * (per_point * points + 50))};
}

/// The kernel with the fewest cycles. Their estimate follows what benchmarks/plans.cu measured on
/// an H200.
inline FpsPlan plan_fps(int64_t B, int64_t N, const Device& device) {
  std::optional<FpsPlan> best;
  for (const FpsKernel& kernel : kFpsKernels) {
    const std::optional<FpsPlan> plan = plan_fps_with(kernel, B, N, device);
    if (plan && (!best || plan->cycles < best->cycles)) best = plan;
  }
  return best.value();  // the streamed kernel takes any cloud
}

inline const char* name_of(FpsVersion version) {
  constexpr const char* kNames[] = {"block", "cluster", "grid", "streamed"};
  return kNames[static_cast<int>(version)];
}

/// "cluster: 4 blocks x 256 threads x 8 points, 32 clouds at once, 24576 bytes of shared memory"
inline std::string describe(const FpsPlan& plan) {
  std::ostringstream out;
  out << name_of(plan.kernel.version) << ": " << plan.blocks_per_cloud << " blocks x "
      << plan.kernel.threads << " threads x ";
  if (plan.kernel.points_per_thread)
    out << plan.kernel.points_per_thread << " points, ";
  else
    out << "all points, ";
  out << plan.clouds_at_once << " clouds at once, " << plan.shared_bytes
      << " bytes of shared memory";
  return out.str();
}

/// Runs one plan; `fps(args, context)` runs that of plan_fps.
void fps(const FpsArgs&, const FpsPlan&, const Context&);

}  // namespace dapt::cuda
