// The threads of the blocks that live at once, and the choice of the next. Internal to the layer.
#pragma once

#include <bit>
#include <cstdint>
#include <exception>
#include <vector>

#include "cuda_on_host/execution.h"
#include "cuda_on_host/fiber.h"
#include "cuda_on_host/mail.h"
#include "cuda_on_host/races.h"
#include "cuda_on_host/shared_memory.h"
#include "cuda_on_host/traffic.h"

namespace dapt::on_host {

struct Random {
  std::uint64_t state = 0;

  std::uint32_t next() {  // splitmix64
    std::uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return std::uint32_t(z >> 32);
  }
  std::uint32_t below(std::uint32_t bound) {
    return std::uint32_t((std::uint64_t(next()) * bound) >> 32);
  }
  unsigned bit_of(std::uint32_t bits) {  // the index of one of the set bits
    const unsigned turn = below(32);
    return (std::countr_zero(std::rotr(bits, int(turn))) + turn) % 32;
  }
};

enum class Waiting { no, block, warp, cluster, grid, exited };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  unsigned index = 0;
  uint3 coordinates{};

  Waiting waiting = Waiting::no;
  const char* call = "";  // what it waits at
  Where where;

  unsigned mask = 0;  // of its warp collective
  std::uint64_t value = 0;
  unsigned argument = 0;
  std::uint64_t result = 0;

  bool arrived_at_cluster = false;
  std::uint64_t cluster_phase = 0;

  std::uint32_t mail_epoch = 0;  // turns of mail that it has waited for
  std::vector<Copy> copies;      // copies that it has not waited for
  std::vector<Touched> touched;  // since its warp last waited together

  unsigned warp() const { return index / 32; }
  unsigned lane() const { return index % 32; }
};

struct Barrier {
  std::size_t arrived = 0;
  unsigned predicates = 0;
  Where where;  // of the first to arrive
};

struct Block {
  Block(std::size_t shared_bytes, std::span<std::byte> image) : shared(shared_bytes, image) {}

  SharedMemory shared;
  std::vector<Thread> threads;
  uint3 coordinates{};
  unsigned rank = 0;  // within its cluster
  bool started = false;
  unsigned unfinished = 0;

  std::uint32_t ready[32] = {};    // by warp, its lanes that can continue
  std::uint32_t waiting[32] = {};  // by warp, its lanes that wait at a collective
  std::uint32_t ready_warps = 0;
  bool warp_by_warp = false;  // whether to run each warp as far as possible, or to mix warps
  unsigned last_warp = 0;

  Barrier barrier;
  unsigned predicates = 0;  // from the last barrier

  Shadow shadow;
  std::uint32_t epoch = 0, warp_epochs[32] = {};  // barriers passed by the block, and by each warp

  void wake(Thread& thread) {
    thread.waiting = Waiting::no;
    ready[thread.warp()] |= 1u << thread.lane();
    ready_warps |= 1u << thread.warp();
  }

  Thread& draw(Random& random) {
    unsigned warp = last_warp;
    if (!warp_by_warp || !(ready_warps >> warp & 1)) warp = random.bit_of(ready_warps);
    last_warp = warp;
    const unsigned lane = random.bit_of(ready[warp]);
    ready[warp] &= ~(1u << lane);
    if (!ready[warp]) ready_warps &= ~(1u << warp);
    return threads[warp * 32 + lane];
  }
};

// The blocks that live at once: one block, a cluster, or a cooperative grid.
struct Gang {
  std::vector<Block*> blocks;
  std::size_t threads = 0;
  std::size_t unfinished = 0;  // threads
  Block* resident = nullptr;   // whose static shared variables are in the image
  std::size_t arrived = 0;     // threads, at the barrier of the cluster or the grid
  std::uint64_t phase = 0;     // how often that barrier was passed
  Mail mail;
};

// The launch in progress, of which there is only one.
struct Execution {
  const Launch* launch = nullptr;
  Gang* gang = nullptr;
  Thread* self = nullptr;
  std::exception_ptr failure;
  unsigned yields = 0;  // since any thread made progress
  Accesses accesses = Accesses::plain;
  bool counts_traffic = false;
  std::span<const std::byte> stacks;  // for the threads that live at once
  Random random;
  Counters counters{};
};
extern Execution execution;

std::string text(const uint3& at);
std::string text(const Where& where);

// Throws if the device would refuse the launch.
void check_limits(const Launch& launch);

[[noreturn]] void fail_in(const Block& block, const std::string& reason);

}  // namespace dapt::on_host
