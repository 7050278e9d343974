#include "cuda_on_host/device.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {

static DeviceModel model;

void set_device(const DeviceModel& chosen) { model = chosen; }
const DeviceModel& device() { return model; }

static std::uint64_t resident_blocks(const Launch& launch) {
  const std::uint64_t threads = launch.block.x * launch.block.y * launch.block.z;
  const std::uint64_t by_threads = model.threads_per_multiprocessor / ((threads + 31) / 32 * 32);
  const std::uint64_t by_memory = model.shared_per_multiprocessor / (launch.shared_bytes + 1024);
  return model.multiprocessors *
         std::min({by_threads, by_memory, std::uint64_t(model.blocks_per_multiprocessor)});
}

void check_limits(const Launch& launch) {
  const auto refuse = [&](const std::string& reason) {
    throw std::runtime_error("cannot launch " + launch.kernel + ": " + reason);
  };
  const auto [x, y, z] = launch.block;
  const auto [grid_x, grid_y, grid_z] = launch.grid;
  if (!x || !y || !z || x > 1024 || y > 1024 || z > 64 || std::uint64_t(x) * y * z > 1024)
    refuse("a block has 1 to 1024 threads, got " + text({x, y, z}));
  if (!grid_x || !grid_y || !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535)
    refuse("a grid has 1 to (2147483647, 65535, 65535) blocks, got " +
           text({grid_x, grid_y, grid_z}));
  if (launch.shared_bytes > model.shared_per_block)
    refuse("a block has at most " + std::to_string(model.shared_per_block) +
           " bytes of shared memory, got " + std::to_string(launch.shared_bytes));
  if (launch.cluster != 1) {
    if (model.major < 9) refuse("clusters need compute capability 9.0");
    if (model.code < 90) refuse("its code was compiled for a GPU without clusters");
    if (!std::has_single_bit(launch.cluster) || int(launch.cluster) > model.max_cluster)
      refuse("a cluster has a power of two of at most " + std::to_string(model.max_cluster) +
             " blocks, got " + std::to_string(launch.cluster));
    if (grid_x % launch.cluster)
      refuse("grid.x must be a multiple of the cluster's " + std::to_string(launch.cluster) +
             " blocks, got " + std::to_string(grid_x));
  }
  if (launch.cooperative) {
    if (launch.cluster != 1) refuse("it is both a cluster and a cooperative launch");
    const std::uint64_t blocks = std::uint64_t(grid_x) * grid_y * grid_z;
    if (blocks > resident_blocks(launch))
      refuse("a cooperative grid has to fit on the device: at most " +
             std::to_string(resident_blocks(launch)) + " blocks, got " + std::to_string(blocks));
  }
}

}  // namespace dapt::on_host
