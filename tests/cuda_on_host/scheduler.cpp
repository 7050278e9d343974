#include "cuda_on_host/scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "cuda_on_host/faults.h"
#include "cuda_on_host/sanitizer.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace dapt::on_host {

Execution execution;

namespace {

#ifdef DAPT_ADDRESS_SANITIZER
constexpr std::size_t kStackBytes = 512 * 1024;
#else
constexpr std::size_t kStackBytes = 128 * 1024;
#endif
// Not a power of two, so that the tops of the stacks do not compete for the same cache lines.
constexpr std::size_t kStackStride = kStackBytes + 33 * 64;

class Stacks {
 public:
  std::byte* get(std::size_t count) {
    if (count > count_) {
      if (base_) munmap(base_, bytes(count_));
      base_ = nullptr;
      void* base = mmap(nullptr, bytes(count), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (base == MAP_FAILED) throw std::bad_alloc();
      base_ = static_cast<std::byte*>(base);
      count_ = count;
    }
    return base_ + kStackStride;
  }
  std::span<const std::byte> all() const { return {base_, bytes(count_)}; }

  // Frees what only a grid with many blocks needed.
  void trim() {
    if (count_ <= kKept) return;
    munmap(base_, bytes(count_));
    base_ = nullptr;
    count_ = 0;
  }

 private:
  static constexpr std::size_t kKept = 16 * 1024;

  // One more than requested: the first stack may overflow into it until that is noticed.
  static std::size_t bytes(std::size_t count) { return (count + 1) * kStackStride; }

  std::byte* base_ = nullptr;
  std::size_t count_ = 0;
};

void thread_main() {
  try {
    execution.launch->run_thread(execution.launch->call);
  } catch (...) {
    execution.failure = std::current_exception();
  }
}

std::uint32_t draw_poison() {
  switch (execution.random.below(4)) {
    case 0: return 0xffffffff;  // NaN in every type, and -1
    case 1: return 0x7fffffff;  // NaN, and the largest int
    case 2: return 0x7f7f7f7f;  // huge
    default: return execution.random.next();
  }
}

void prepare(Block& block, std::uint64_t index, std::byte* stack) {
  const auto [grid_x, grid_y, grid_z] = execution.launch->grid;
  const auto [x, y, z] = execution.launch->block;
  block.coordinates = {unsigned(index % grid_x), unsigned(index / grid_x % grid_y),
                       unsigned(index / grid_x / grid_y)};
  block.rank = block.coordinates.x % execution.launch->cluster;
  block.started = false;
  block.unfinished = x * y * z;
  block.barrier = {};
  block.shadow = {};
  block.epoch = 0;
  std::ranges::fill(block.warp_epochs, 0);
  block.warp_by_warp = execution.random.below(2);
  block.threads.assign(x * y * z, {});
  std::ranges::fill(block.waiting, 0);
  for (unsigned i = 0; i < block.unfinished; ++i, stack += kStackStride) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.index = i;
    thread.coordinates = {i % x, i / x % y, i / x / y};
    thread.fiber.prepare(stack, kStackBytes, thread_main);
    block.wake(thread);
  }
}

// A block's shared memory begins with its first thread; earlier writes by others are lost.
void enter(Block& block) {
  Gang& gang = *execution.gang;
  if (gang.resident == &block) return;
  if (gang.resident) gang.resident->shared.move_out();
  if (!block.started) block.shared.begin(draw_poison());
  block.started = true;
  block.shared.move_in();
  gang.resident = &block;
  blockIdx = block.coordinates;
}

void run_thread(Thread& thread) {
  ++execution.counters.switches;
  execution.self = &thread;
  threadIdx = thread.coordinates;
  thread.fiber.resume();
  if (execution.failure) std::rethrow_exception(std::exchange(execution.failure, nullptr));
  Block& block = *thread.block;
  if (thread.fiber.overflowed())
    fail_in(block, "a thread needs more than " + std::to_string(kStackBytes) + " bytes of stack");
  if (thread.fiber.finished()) {
    if (!thread.copies.empty()) fail_in(block, "a thread ends before it has waited for its copies");
    execution.yields = 0;
    thread.waiting = Waiting::exited;
    --execution.gang->unfinished;
    if (--block.unfinished == 0) {
      for (unsigned warp = 0; warp * 32 < block.threads.size(); ++warp) put_together(block, warp);
      block.shared.end(draw_poison());
    }
  }
}

// "of 64 threads 32 wait at __syncthreads (fps.cu:80), 32 have exited"
std::string describe(const Block& block) {
  std::map<std::string, unsigned> groups;
  for (const Thread& thread : block.threads) {
    if (thread.waiting == Waiting::exited) continue;
    char mask[32] = "";
    if (thread.waiting == Waiting::warp)
      std::snprintf(mask, sizeof mask, " with mask 0x%08x", thread.mask);
    ++groups[thread.call + std::string(mask) + " (" + text(thread.where) + ")"];
  }
  std::string result = "of " + std::to_string(block.threads.size()) + " threads ";
  for (const auto& [group, count] : groups)
    result += std::to_string(count) + " wait at " + group + ", ";
  return result + std::to_string(block.threads.size() - block.unfinished) + " have exited";
}

[[noreturn]] void report_deadlock() {
  const auto& blocks = execution.gang->blocks;
  const auto stuck = std::ranges::min_element(
      blocks, {}, [](const Block* block) { return block->unfinished ? block->unfinished : ~0u; });
  std::string reason = "deadlock: " + describe(**stuck);
  if (blocks.size() > 1)
    reason += "; of " + std::to_string(blocks.size()) + " blocks that run together " +
              std::to_string(std::ranges::count(blocks, 0u, &Block::unfinished)) + " have finished";
  fail_in(**stuck, reason);
}

Block& draw_block() {
  const auto& blocks = execution.gang->blocks;
  const std::size_t first = execution.random.below(std::uint32_t(blocks.size()));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    Block& block = *blocks[(first + i) % blocks.size()];
    if (block.ready_warps) return block;
  }
  report_deadlock();
}

void run_gang() {
  Random& random = execution.random;
  while (execution.gang->unfinished) {
    Block& block = draw_block();
    enter(block);
    const unsigned turns = 1 + random.below(2 * unsigned(block.threads.size()));
    for (unsigned i = 0; i < turns && block.ready_warps; ++i) run_thread(block.draw(random));
    execution.gang->mail.deliver(false);
  }
  execution.gang->mail.deliver(true);
}

std::vector<std::uint32_t> shuffled(std::size_t count) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = count; i > 1; --i)
    std::swap(order[i - 1], order[execution.random.below(std::uint32_t(i))]);
  return order;
}

// Restores the state from before the launch, however the launch ends.
class Restore {
 public:
  explicit Restore(std::span<std::byte> image)
      : image_(image), saved_(image.begin(), image.end()) {}
  ~Restore() {
    std::ranges::copy(saved_, image_.begin());
    execution.launch = nullptr;
    execution.gang = nullptr;
    execution.self = nullptr;
    execution.yields = 0;
    execution.accesses = Accesses::plain;
  }

 private:
  std::span<std::byte> image_;
  std::vector<std::byte> saved_;
};

}  // namespace

void run(const Launch& launch) {
  static std::mutex one_at_a_time;
  const std::scoped_lock lock(one_at_a_time);
  static Stacks stacks;

  check_limits(launch);
  take_races();  // discards those of a failed launch
  const std::span<std::byte> image = static_shared_image();
  const Restore restore(image);
  const FaultsAreFailures guard;
  execution.launch = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;

  const std::size_t grid_blocks = std::size_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  const std::size_t gang_blocks = launch.cooperative ? grid_blocks : launch.cluster;
  const std::size_t block_threads = launch.block.x * launch.block.y * launch.block.z;
  std::byte* const first_stack = stacks.get(gang_blocks * block_threads);
  execution.stacks = stacks.all();
  std::deque<Block> blocks;
  for (std::size_t i = 0; i < gang_blocks; ++i) blocks.emplace_back(launch.shared_bytes, image);

  ++execution.counters.launches;
  execution.counters.blocks += grid_blocks;
  for (const std::size_t drawn : shuffled(grid_blocks / gang_blocks)) {
    Gang gang;
    gang.threads = gang.unfinished = gang_blocks * block_threads;
    execution.gang = &gang;
    for (std::size_t i = 0; i < gang_blocks; ++i) {
      gang.blocks.push_back(&blocks[i]);
      prepare(blocks[i], drawn * gang_blocks + i, first_stack + i * block_threads * kStackStride);
    }
    run_gang();
  }
  stacks.trim();
  const std::vector<std::string> races = take_races();
  if (!races.empty())
    throw std::runtime_error(
        launch.kernel + ": " + races[0] +
        (races.size() > 1 ? ", and " + std::to_string(races.size() - 1) + " more such places"
                          : ""));
}

void set_accesses(Accesses accesses) { execution.accesses = accesses; }

void set_seed(std::uint64_t seed) { execution.random.state = seed; }
Counters counters() { return execution.counters; }

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

std::string text(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

void fail_in(const Block& block, const std::string& reason) {
  throw std::runtime_error(execution.launch->kernel + ", block " + text(block.coordinates) + ": " +
                           reason);
}

void fail(const std::string& reason) {
  const Thread& self = *execution.self;
  fail_in(*self.block, "thread " + text(self.coordinates) + " " + reason);
}

}  // namespace dapt::on_host
