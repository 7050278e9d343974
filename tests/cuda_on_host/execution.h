// The interface of the layer to device code, and to tests: the seed and counters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "cuda_on_host/types.h"

// The coordinates of the running thread, set before it continues.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace dapt::on_host {

using Where = std::source_location;

// The seed determines thread order, block order and the initial contents of shared memory.
void set_seed(std::uint64_t seed);

struct Counters {
  std::uint64_t launches, blocks, barriers, collectives, switches;
  std::uint64_t watched;  // accesses to shared memory seen by the race detector
};
Counters counters();

struct Launch {
  std::string kernel;
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  unsigned cluster = 1;      // blocks per cluster, along x
  bool cooperative = false;  // whether all blocks live at once
  void (*run_thread)(const void* call) = nullptr;
  const void* call = nullptr;  // the kernel and its arguments
  const void* code = nullptr;  // the start of the kernel's code
};

// Runs every thread of the grid to completion. Throws std::runtime_error for a launch that the
// device would refuse, for a kernel that breaks the rules, and if a race was seen (races.h); the
// message names the kernel, the block and the place.
void run(const Launch& launch);

// Stops the kernel with an error in the running thread.
[[noreturn]] void fail(const std::string& reason);

// Lets other threads run first.
void yield();
// Does so now and then; called by atomics, whose order is arbitrary.
void maybe_yield();

// Waits for all threads of the block; returns how many of them passed a true predicate.
unsigned block_barrier(const char* name, bool predicate, Where where);

// One collective of a warp: every lane of `mask` brings a value and an argument, and combine()
// computes every lane's result.
struct Lanes {
  unsigned mask;
  std::uint64_t value[32];
  unsigned argument[32];
  std::uint64_t result[32];
};
using Combine = void (*)(Lanes&);
std::uint64_t warp_collective(const char* name, unsigned mask, std::uint64_t value,
                              unsigned argument, Combine combine, Where where);
unsigned lane_index();

void cluster_arrive(Where where);
void cluster_wait(Where where);
void grid_barrier(Where where);
unsigned cluster_rank();
unsigned cluster_size();

// How the race detector classifies the running thread's accesses until the next call.
enum class Accesses { plain, atomic, ignored };
void set_accesses(Accesses accesses);

// Sends a message: writes `bytes` to `slot` in the shared memory of block `rank`, then calls
// arrived(box, size) for that block's counterpart of `box`. It arrives at some later time.
void post(void* slot, const void* bytes, std::size_t size, unsigned rank, void* box,
          void (*arrived)(void* box, int bytes));
// The running thread has waited until everything sent in one turn had arrived.
void passed_mail();

// Other threads see relaxed stores at some later time; a load lets those threads run first.
void store_relaxed(unsigned long long* to, unsigned long long word);
unsigned long long load_relaxed(const unsigned long long* from);

// Shared memory holds garbage until the copy has been waited for.
void copy_async(void* shared, const void* global, std::size_t bytes);
void wait_for_copies();

void* dynamic_shared();
// The address in another block of the cluster that corresponds to `address` in this block's shared
// memory.
void* map_shared(const void* address, unsigned rank);

}  // namespace dapt::on_host
