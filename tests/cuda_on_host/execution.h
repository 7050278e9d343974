// What running device code asks of the layer, and what tests ask: seed and counters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "cuda_on_host/types.h"

// The coordinates of the thread that runs; set before it goes on.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace dapt::on_host {

using Where = std::source_location;

// Thread order, block order and the poison of shared memory follow from the seed.
void set_seed(std::uint64_t seed);

struct Counters {
  std::uint64_t launches, blocks, barriers, collectives, switches;
  std::uint64_t watched;  // accesses to shared memory, by the race detector
};
Counters counters();

struct Launch {
  std::string kernel;
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  unsigned cluster = 1;      // blocks of a cluster, along x
  bool cooperative = false;  // all blocks live at once
  void (*run_thread)(const void* call) = nullptr;
  const void* call = nullptr;  // the kernel and its arguments
  const void* code = nullptr;  // where the kernel begins
};

// Runs every thread of the grid to its end. Throws std::runtime_error for a launch that the device
// would refuse, for a kernel that breaks the rules, and where a race was seen (races.h); the
// message names kernel, block and place.
void run(const Launch& launch);

// Stops the kernel with an error of the running thread.
[[noreturn]] void fail(const std::string& reason);

// Lets other threads go first.
void yield();
// Does so now and then: called by atomics, whose order is open.
void maybe_yield();

// Waits for all threads of the block; returns how many of them gave a true predicate.
unsigned block_barrier(const char* name, bool predicate, Where where);

// One collective of a warp: all lanes of `mask` bring a value and an argument, and combine() makes
// every lane's result.
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

// What the race detector takes the running thread's accesses for until it is told otherwise.
enum class Accesses { plain, atomic, ignored };
void set_accesses(Accesses accesses);

// A message: `bytes` for `slot` in the shared memory of block `rank`, and then arrived(box, size)
// for what that block has at `box`. It arrives at some later time.
void post(void* slot, const void* bytes, std::size_t size, unsigned rank, void* box,
          void (*arrived)(void* box, int bytes));
// The running thread has waited until all that was sent in a turn had arrived.
void passed_mail();

// Relaxed stores are seen by others at some later time; a load lets them go first.
void store_relaxed(unsigned long long* to, unsigned long long word);
unsigned long long load_relaxed(const unsigned long long* from);

// Shared memory holds garbage until the copy is waited for.
void copy_async(void* shared, const void* global, std::size_t bytes);
void wait_for_copies();

void* dynamic_shared();
// What `address` in this block's shared memory is in that of another block of the cluster.
void* map_shared(const void* address, unsigned rank);

}  // namespace dapt::on_host
