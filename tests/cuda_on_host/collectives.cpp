// Where threads wait for each other. A waiting thread suspends itself; the last to arrive wakes
// all, including itself, so that any of them may continue first.
#include <cstring>
#include <utility>

#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {
namespace {

constexpr unsigned kMaxYields = 1u << 24;

bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         !std::strcmp(a.file_name(), b.file_name());
}

Thread& wait_at(Waiting waiting, const char* call, const Where& where) {
  Thread& self = *execution.self;
  self.waiting = waiting;
  self.call = call;
  self.where = where;
  return self;
}

// A barrier for all threads of the cluster or the grid.
void arrive_at_gang() {
  Gang& gang = *execution.gang;
  if (++gang.arrived < gang.threads) return;
  ++execution.counters.barriers;
  execution.yields = 0;
  gang.arrived = 0;
  ++gang.phase;
  for (Block* block : gang.blocks)
    for (Thread& thread : block->threads)
      if (thread.waiting == Waiting::cluster || thread.waiting == Waiting::grid)
        block->wake(thread);
}

}  // namespace

unsigned block_barrier(const char* name, bool predicate, Where where) {
  Thread& self = wait_at(Waiting::block, name, where);
  Block& block = *self.block;
  Barrier& barrier = block.barrier;
  if (!barrier.arrived) barrier.where = where;
  if (!same(barrier.where, where))
    fail("reaches the barrier at " + text(where) + " while others of its block wait at that of " +
         text(barrier.where));
  barrier.predicates += predicate;
  if (++barrier.arrived == block.threads.size()) {
    ++execution.counters.barriers;
    execution.yields = 0;
    block.predicates = barrier.predicates;
    ++block.epoch;
    for (unsigned warp = 0; warp * 32 < block.threads.size(); ++warp) put_together(block, warp);
    barrier = {};
    block.warp_by_warp = execution.random.below(2);
    for (Thread& thread : block.threads) block.wake(thread);
  }
  Fiber::suspend();
  return block.predicates;
}

std::uint64_t warp_collective(const char* name, unsigned mask, std::uint64_t value,
                              unsigned argument, Combine combine, Where where) {
  Thread& self = wait_at(Waiting::warp, name, where);
  Block& block = *self.block;
  std::uint32_t& waiting = block.waiting[self.warp()];
  Thread* const lanes = &block.threads[self.warp() * 32];
  if (!(mask >> self.lane() & 1))
    fail(std::string("calls ") + name + " (" + text(where) + ") with a mask that leaves it out");
  self.mask = mask;
  self.value = value;
  self.argument = argument;
  waiting |= 1u << self.lane();

  bool complete = (waiting & mask) == mask;
  for (unsigned left = mask; complete && left; left &= left - 1) {
    const Thread& lane = lanes[std::countr_zero(left)];
    complete = lane.mask == mask && lane.call == name && same(lane.where, where);
  }
  if (complete) {
    ++execution.counters.collectives;
    execution.yields = 0;
    Lanes all{};
    all.mask = mask;
    for (unsigned left = mask; left; left &= left - 1) {
      const int i = std::countr_zero(left);
      all.value[i] = lanes[i].value;
      all.argument[i] = lanes[i].argument;
    }
    // combine() works for all lanes, so its accesses are not counted as this thread's.
    const bool counts = std::exchange(execution.counts_traffic, false);
    combine(all);
    execution.counts_traffic = counts;
    // Only this collective orders memory, and only if all existing lanes take part.
    const std::size_t lanes_left = block.threads.size() - self.warp() * 32;
    const unsigned whole = lanes_left < 32 ? (1u << lanes_left) - 1 : 0xffffffff;
    if ((mask & whole) == whole) {
      put_together(block, self.warp());
      if (!std::strcmp(name, "__syncwarp")) ++block.warp_epochs[self.warp()];
    }
    waiting &= ~mask;
    for (unsigned left = mask; left; left &= left - 1) {
      const int i = std::countr_zero(left);
      lanes[i].result = all.result[i];
      block.wake(lanes[i]);
    }
  }
  Fiber::suspend();
  return self.result;
}

unsigned lane_index() { return execution.self->lane(); }

void yield() {
  Thread& self = *execution.self;
  if (++execution.yields > kMaxYields) fail("spins, like all others that do not wait: livelock");
  self.block->wake(self);
  self.block->last_warp = execution.random.below(32);  // do not stay with a spinning warp
  Fiber::suspend();
}

void maybe_yield() {
  if (execution.random.below(8) == 0) yield();
}

void cluster_arrive(Where where) {
  Thread& self = *execution.self;
  if (self.arrived_at_cluster)
    fail("arrives twice at the cluster's barrier without a wait (" + text(where) + ")");
  self.arrived_at_cluster = true;
  self.cluster_phase = execution.gang->phase;
  arrive_at_gang();
}

void cluster_wait(Where where) {
  Thread& self = wait_at(Waiting::cluster, "the cluster's barrier", where);
  if (!self.arrived_at_cluster)
    fail("waits at the cluster's barrier without having arrived (" + text(where) + ")");
  self.arrived_at_cluster = false;
  if (execution.gang->phase != self.cluster_phase) self.block->wake(self);
  Fiber::suspend();
}

void grid_barrier(Where where) {
  if (!execution.launch->cooperative) fail("waits for a grid that was not launched cooperatively");
  wait_at(Waiting::grid, "the grid's barrier", where);
  arrive_at_gang();
  Fiber::suspend();
}

unsigned cluster_rank() { return execution.self->block->rank; }
unsigned cluster_size() { return execution.launch->cluster; }

void* dynamic_shared() { return execution.self->block->shared.dynamic(); }

void* map_shared(const void* address, unsigned rank) {
  Block& self = *execution.self->block;
  if (rank >= cluster_size())
    fail("asks for block " + std::to_string(rank) + " of a cluster of " +
         std::to_string(cluster_size()));
  Block& other = *execution.gang->blocks[rank];
  std::byte* const mapped = other.shared.counterpart(address, self.shared);
  if (!mapped) fail("maps an address that is not in its block's shared memory");
  return mapped;
}

}  // namespace dapt::on_host
