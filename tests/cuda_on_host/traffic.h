// Counts the memory requests that kernels would make on a device: wavefronts of shared memory, and
// thereby bank conflicts, and sectors of global memory. The hooks of races.cpp call it. Internal to
// the layer.
//
// What a warp does at once is reconstructed afterward: its lanes' n-th accesses at one place of the
// code since the warp last waited together form one request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dapt::on_host {

struct Traffic {
  std::string kernel;    // as named by the launch
  std::size_t code = 0;  // where its code starts in this binary
  std::uint64_t shared_requests = 0;
  std::uint64_t wavefronts = 0, least_wavefronts = 0;  // least: without bank conflicts
  std::uint64_t global_requests = 0;
  std::uint64_t sectors = 0, least_sectors = 0;  // of 32 bytes; least: if no byte were idle
};

// Starts counting launches, or stops; clears the counters.
void count_traffic(bool on);
// The counts by kernel.
std::vector<Traffic> traffic();

// One thread's access that has not been combined with those of its warp.
struct Touched {
  const void* place;    // in the code
  std::uintptr_t from;  // offset in shared memory, or address in global memory
  std::uint32_t bytes;
  bool shared, atomic;
};

struct Block;

// The running thread accesses memory; anything neither shared nor global is not counted.
void note_access(const void* address, std::size_t bytes, const void* place, bool atomic);
// Called when the warp waits together or ends.
void put_together(Block& block, unsigned warp);

}  // namespace dapt::on_host
