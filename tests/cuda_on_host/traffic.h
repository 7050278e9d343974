// Counts what kernels would ask of a device's memory: wavefronts of shared memory, and with them
// bank conflicts, and sectors of global memory. Fed by the hooks of races.cpp. Internal to the
// layer.
//
// What a warp does at once is put together afterward: its lanes' n-th accesses at one place of the
// code, since the warp last waited together, are one request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dapt::on_host {

struct Traffic {
  std::string kernel;    // as the launch names it
  std::size_t code = 0;  // where the kernel begins in this binary
  std::uint64_t shared_requests = 0;
  std::uint64_t wavefronts = 0, least_wavefronts = 0;  // least: without a bank conflict
  std::uint64_t global_requests = 0;
  std::uint64_t sectors = 0, least_sectors = 0;  // of 32 bytes; least: if no byte of one were idle
};

// Of the launches from now on, or of none; forgets what was counted.
void count_traffic(bool on);
// By kernel.
std::vector<Traffic> traffic();

// One access of a thread that has not been put together with those of its warp.
struct Touched {
  const void* place;    // in the code
  std::uintptr_t from;  // the place in shared memory, or the address in global memory
  std::uint32_t bytes;
  bool shared, atomic;
};

struct Block;

// The running thread touches memory; what is neither shared nor global does not count.
void note_access(const void* address, std::size_t bytes, const void* place, bool atomic);
// The warp waits together, or ends.
void put_together(Block& block, unsigned warp);

}  // namespace dapt::on_host
