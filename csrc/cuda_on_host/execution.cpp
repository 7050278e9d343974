// Scheduling: a gang is the blocks that live at once (one block, a cluster, or a cooperative grid).
// One thread runs at a time, until it waits; who is next is drawn at random among those that can go on.
#include "cuda_on_host/execution.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "cuda_on_host/device.h"
#include "cuda_on_host/fiber.h"
#include "cuda_on_host/sanitizer.h"
#include "cuda_on_host/shared_memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace dapt::on_host {
namespace {

#ifdef DAPT_ADDRESS_SANITIZER
constexpr std::size_t kStackBytes = 512 * 1024;
#else
constexpr std::size_t kStackBytes = 128 * 1024;
#endif
// Not a power of two, so that the tops of the stacks do not compete for the same cache lines.
constexpr std::size_t kStackStride = kStackBytes + 33 * 64;
constexpr unsigned kMaxYields = 1u << 24;

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
    const int turn = int(below(32));
    return (std::countr_zero(std::rotr(bits, turn)) + turn) % 32;
  }
};

enum class Waiting { no, block, warp, cluster, grid, forever };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  unsigned index = 0;
  uint3 coordinates{};
  Waiting waiting = Waiting::no;
  const char* call = nullptr;  // what it waits at
  Where where;
  unsigned mask = 0;
  std::uint64_t value = 0;
  unsigned argument = 0;
  std::uint64_t result = 0;
  bool arrived_at_cluster = false;
  std::uint64_t cluster_phase = 0;

  unsigned warp() const { return index / 32; }
  unsigned lane() const { return index % 32; }
};

struct Barrier {
  std::size_t arrived = 0;
  unsigned predicates = 0;
  Where where;
};

struct Block {
  Block(std::size_t shared_bytes, std::span<std::byte> image) : shared(shared_bytes, image) {}

  std::vector<Thread> threads;
  uint3 coordinates{};
  unsigned rank = 0;
  bool started = false;
  unsigned unfinished = 0;
  SharedMemory shared;

  std::uint32_t ready[32] = {};    // by warp, its lanes that can go on
  std::uint32_t waiting[32] = {};  // by warp, its lanes that wait at a collective
  std::uint32_t ready_warps = 0;
  bool warp_by_warp = false;  // run each warp as far as it gets, or mix them
  unsigned last_warp = 0;

  Barrier barrier;
  unsigned predicates = 0;  // of the barrier passed last

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

struct Gang {
  std::vector<Block*> blocks;
  std::size_t threads = 0;
  Block* resident = nullptr;
  Barrier barrier;  // of the cluster or the grid: a gang is never both
  std::uint64_t phase = 0;
};

class Stacks {
 public:
  std::byte* get(std::size_t count) {
    if (count > count_) {
      if (base_) munmap(base_, count_ * kStackStride);
      void* base = mmap(nullptr, count * kStackStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (base == MAP_FAILED) throw std::bad_alloc();
      base_ = static_cast<std::byte*>(base);
      count_ = count;
    }
    return base_;
  }

 private:
  std::byte* base_ = nullptr;
  std::size_t count_ = 0;
};

std::mutex one_launch_at_a_time;
DeviceModel model;
Random random_;
Counters counted{};
Stacks stacks;

// The launch that runs.
const Launch* launch_ = nullptr;
Gang* gang = nullptr;
Thread* self = nullptr;
std::exception_ptr failure;
unsigned yields = 0;  // since a thread last got anywhere

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

std::string text(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

[[noreturn]] void fail_in(const Block& block, const std::string& reason) {
  throw std::runtime_error(launch_->kernel + ", block " + text(block.coordinates) + ": " + reason);
}

void suspend_at(Waiting waiting, const char* call, const Where& where) {
  self->waiting = waiting;
  self->call = call;
  self->where = where;
  Fiber::suspend();
}

void thread_main() {
  try {
    launch_->body(launch_->arguments);
  } catch (...) {
    failure = std::current_exception();
  }
}

void check_limits(const Launch& launch) {
  const auto refuse = [&](const std::string& reason) {
    throw std::runtime_error("cannot launch " + launch.kernel + ": " + reason);
  };
  const auto [gx, gy, gz] = launch.grid;
  const auto [bx, by, bz] = launch.block;
  const std::uint64_t threads = std::uint64_t(bx) * by * bz;
  if (threads < 1 || threads > 1024 || bx > 1024 || by > 1024 || bz > 64)
    refuse("a block must have 1 to 1024 threads, got " + text({bx, by, bz}));
  if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535)
    refuse("a grid must have 1 to (2147483647, 65535, 65535) blocks, got " + text({gx, gy, gz}));
  if (launch.shared_bytes > model.shared_per_block)
    refuse("a block may have " + std::to_string(model.shared_per_block) +
           " bytes of shared memory, got " + std::to_string(launch.shared_bytes));
  if (launch.cluster != 1) {
    if (model.major < 9) refuse("clusters need compute capability 9.0");
    if (!std::has_single_bit(launch.cluster) || int(launch.cluster) > model.max_cluster)
      refuse("a cluster must have a power of two of at most " + std::to_string(model.max_cluster) +
             " blocks, got " + std::to_string(launch.cluster));
    if (gx % launch.cluster)
      refuse("grid.x must be a multiple of the cluster's " + std::to_string(launch.cluster) +
             " blocks, got " + std::to_string(gx));
    if (launch.cooperative) refuse("it is both a cluster and a cooperative launch");
  }
  if (launch.cooperative) {
    const std::uint64_t rounded = (threads + 31) / 32 * 32;
    const std::uint64_t per_multiprocessor =
        std::min({std::uint64_t(model.threads_per_multiprocessor) / rounded,
                  std::uint64_t(model.blocks_per_multiprocessor),
                  model.shared_per_multiprocessor / (launch.shared_bytes + 1024)});
    const std::uint64_t most = per_multiprocessor * model.multiprocessors;
    if (std::uint64_t(gx) * gy * gz > most)
      refuse("a cooperative grid must fit on the device at once: at most " + std::to_string(most) +
             " blocks, got " + std::to_string(std::uint64_t(gx) * gy * gz));
  }
}

void prepare(Block& block, const Launch& launch, std::uint64_t block_index, std::byte* stack) {
  const auto [bx, by, bz] = launch.block;
  const unsigned count = bx * by * bz;
  block.coordinates = {unsigned(block_index % launch.grid.x),
                       unsigned(block_index / launch.grid.x % launch.grid.y),
                       unsigned(block_index / launch.grid.x / launch.grid.y)};
  block.rank = block.coordinates.x % launch.cluster;
  block.started = false;
  block.unfinished = count;
  block.barrier = {};
  block.warp_by_warp = random_.below(2);
  block.shared.forbid();
  block.threads.assign(count, {});
  block.ready_warps = 0;
  std::ranges::fill(block.waiting, 0);
  for (unsigned i = 0; i < count; ++i, stack += kStackStride) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.index = i;
    thread.coordinates = {i % bx, i / bx % by, i / bx / by};
    thread.fiber.prepare(stack, kStackBytes, thread_main);
    block.wake(thread);
  }
}

std::uint32_t draw_poison() {
  switch (random_.below(4)) {
    case 0: return 0xffffffff;  // NaN in every type, and -1
    case 1: return 0x7fffffff;  // NaN, and the largest int
    case 2: return 0x7f7f7f7f;  // huge
    default: return random_.next();
  }
}

void enter(Block& block) {
  if (gang->resident == &block) return;
  if (gang->resident) gang->resident->shared.move_out();
  if (!block.started) block.shared.poison(draw_poison());
  block.started = true;
  block.shared.move_in();
  gang->resident = &block;
  blockIdx = block.coordinates;
}

void leave_for_good(Block& block) {
  if (gang->blocks.size() == 1) return;
  block.shared.poison(draw_poison());
  block.shared.forbid();
}

void run_thread(Thread& thread) {
  ++counted.switches;
  self = &thread;
  threadIdx = thread.coordinates;
  thread.fiber.resume();
  if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  Block& block = *thread.block;
  if (thread.fiber.overflowed())
    fail_in(block, "a thread needs more than " + std::to_string(kStackBytes) + " bytes of stack");
  if (thread.fiber.finished()) {
    yields = 0;
    thread.waiting = Waiting::forever;
    --gang->threads;
    if (!--block.unfinished) leave_for_good(block);
  }
}

[[noreturn]] void report_deadlock() {
  const Block* stuck = nullptr;
  for (const Block* block : gang->blocks)
    if (block->unfinished && (!stuck || block->unfinished < stuck->unfinished)) stuck = block;
  std::map<std::string, unsigned> groups;
  unsigned exited = 0;
  for (const Thread& thread : stuck->threads) {
    if (thread.waiting == Waiting::forever) {
      ++exited;
      continue;
    }
    std::string group = thread.call;
    if (thread.waiting == Waiting::warp) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "0x%08x", thread.mask);
      group += std::string(" with mask ") + mask;
    }
    ++groups[group + " (" + text(thread.where) + ")"];
  }
  std::string reason = "deadlock: of " + std::to_string(stuck->threads.size()) + " threads";
  for (const auto& [group, count] : groups)
    reason += " " + std::to_string(count) + " wait at " + group + ",";
  reason += " " + std::to_string(exited) + " have exited";
  if (gang->blocks.size() > 1) {
    const auto finished =
        std::ranges::count_if(gang->blocks, [](const Block* block) { return !block->unfinished; });
    reason += "; of " + std::to_string(gang->blocks.size()) + " blocks that run together " +
              std::to_string(finished) + " have finished";
  }
  fail_in(*stuck, reason);
}

Block* draw_block() {
  const std::size_t count = gang->blocks.size();
  const std::size_t first = random_.below(std::uint32_t(count));
  for (std::size_t i = 0; i < count; ++i) {
    Block* block = gang->blocks[(first + i) % count];
    if (block->ready_warps) return block;
  }
  report_deadlock();
}

void run_gang() {
  while (gang->threads) {
    Block& block = *draw_block();
    enter(block);
    const unsigned turns = 1 + random_.below(2 * unsigned(block.threads.size()));
    for (unsigned i = 0; i < turns && block.ready_warps; ++i) run_thread(block.draw(random_));
  }
}

// Puts back what the launch overwrote, however it ends.
class Restore {
 public:
  explicit Restore(std::span<std::byte> image) : image_(image), saved_(image.begin(), image.end()) {}
  ~Restore() {
    std::ranges::copy(saved_, image_.begin());
    launch_ = nullptr;
    gang = nullptr;
    self = nullptr;
    yields = 0;
  }

 private:
  std::span<std::byte> image_;
  std::vector<std::byte> saved_;
};

}  // namespace

void set_device(const DeviceModel& chosen) { model = chosen; }
const DeviceModel& device() { return model; }
void set_seed(std::uint64_t seed) { random_.state = seed; }
Counters counters() { return counted; }

void run(const Launch& launch) {
  const std::scoped_lock lock(one_launch_at_a_time);
  check_limits(launch);
  const std::span<std::byte> image = static_shared_image();
  const Restore restore(image);
  launch_ = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;
  ++counted.launches;

  const std::uint64_t block_count = std::uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  const std::uint64_t gang_size = launch.cooperative ? block_count : launch.cluster;
  const std::size_t block_threads = launch.block.x * launch.block.y * launch.block.z;
  std::deque<Block> blocks;
  Gang members;
  for (std::uint64_t i = 0; i < gang_size; ++i)
    members.blocks.push_back(&blocks.emplace_back(launch.shared_bytes, image));
  std::byte* stack = stacks.get(gang_size * block_threads);

  std::vector<std::uint32_t> order(block_count / gang_size);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random_.below(std::uint32_t(i))]);
  for (const std::uint64_t drawn : order) {
    gang = &members;
    gang->threads = gang_size * block_threads;
    gang->resident = nullptr;
    gang->barrier = {};
    for (std::uint64_t i = 0; i < gang_size; ++i)
      prepare(blocks[i], launch, drawn * gang_size + i, stack + i * block_threads * kStackStride);
    run_gang();
    counted.blocks += gang_size;
  }
}

void fail(const std::string& reason) {
  fail_in(*self->block, "thread " + text(self->coordinates) + ": " + reason);
}

void yield() {
  if (++yields > kMaxYields)
    fail("the threads spin on atomics and none gets on (livelock)");
  self->block->wake(*self);
  self->block->last_warp = random_.below(32);  // never stay with a warp that spins
  Fiber::suspend();
}

void maybe_yield() {
  if (random_.below(8) == 0) yield();
}

unsigned block_barrier(const char* name, bool predicate, Where where) {
  Block& block = *self->block;
  Barrier& barrier = block.barrier;
  if (!barrier.arrived) barrier.where = where;
  if (text(barrier.where) != text(where))
    fail("reaches the barrier at " + text(where) + " while others of the block wait at that of " +
         text(barrier.where));
  barrier.predicates += predicate;
  self->waiting = Waiting::block;
  if (++barrier.arrived == block.threads.size()) {
    ++counted.barriers;
    yields = 0;
    block.predicates = barrier.predicates;
    barrier = {};
    block.warp_by_warp = random_.below(2);
    for (Thread& thread : block.threads) block.wake(thread);
  }
  suspend_at(self->waiting, name, where);
  return block.predicates;
}

}  // namespace dapt::on_host
