#include "cuda_on_host/mail.h"

#include <algorithm>
#include <cstring>

#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {

static void deliver(const Message& message) {
  Block& block = *message.to;
  if (block.unfinished == 0) fail_in(block, "mail arrives after the block has ended");
  touch(block, message.slot, message.size, true, message.access);
  std::memcpy(block.shared.at(message.slot), message.bytes, message.size);
  message.arrived(block.shared.at(message.box), int(message.size));
}

void Mail::deliver(bool all) {
  Random& random = execution.random;
  while (!messages.empty() && (all || random.below(4))) {
    std::swap(messages[random.below(std::uint32_t(messages.size()))], messages.back());
    const Message message = messages.back();
    messages.pop_back();
    on_host::deliver(message);
  }
  while (!stores.empty() && (all || random.below(4))) {
    auto* const address = stores[random.below(std::uint32_t(stores.size()))].to;
    const auto first = std::ranges::find(stores, address, &RelaxedStore::to);
    *first->to = first->word;
    stores.erase(first);
  }
}

void post(void* slot, const void* bytes, std::size_t size, unsigned rank, void* box,
          void (*arrived)(void* box, int bytes)) {
  const SharedMemory& own = execution.self->block->shared;
  const auto slot_at = own.offset_of(slot), box_at = own.offset_of(box);
  if (!slot_at || !box_at) fail("posts to an address that is not in its block's shared memory");
  if (rank >= cluster_size())
    fail("posts to block " + std::to_string(rank) + " of a cluster of " +
         std::to_string(cluster_size()));
  Message message{.to = execution.gang->blocks[rank],
                  .slot = *slot_at,
                  .box = *box_at,
                  .bytes = {},
                  .size = size,
                  .arrived = arrived,
                  .access = access_now(__builtin_return_address(0))};
  // Not even the sender's order covers it: only a thread that has waited may read it.
  message.access.thread = Access::kUnordered;
  std::memcpy(message.bytes, bytes, size);
  execution.gang->mail.messages.push_back(message);
}

void passed_mail() { ++execution.self->mail_epoch; }

void store_relaxed(unsigned long long* to, unsigned long long word) {
  execution.gang->mail.stores.push_back({to, word, execution.self});
}

unsigned long long load_relaxed(const unsigned long long* from) {
  yield();
  // A thread sees its own stores.
  const auto& stores = execution.gang->mail.stores;
  for (auto store = stores.rbegin(); store != stores.rend(); ++store)
    if (store->to == from && store->by == execution.self) return store->word;
  return *from;
}

void copy_async(void* shared, const void* global, std::size_t bytes) {
  Thread& self = *execution.self;
  const void* const place = __builtin_return_address(0);
  if (const auto at = self.block->shared.offset_of(shared))
    touch(*self.block, *at, bytes, true, access_now(place));
  note_access(shared, bytes, place, false);
  note_access(global, bytes, place, false);
  std::memset(shared, 0xff, bytes);  // NaN, and -1, until it has been waited for
  self.copies.push_back({shared, global, bytes, place});
}

void wait_for_copies() {
  Thread& self = *execution.self;
  for (const Copy& copy : self.copies) {
    if (const auto at = self.block->shared.offset_of(copy.to))
      touch(*self.block, *at, copy.bytes, true, access_now(copy.place));
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
  self.copies.clear();
}

}  // namespace dapt::on_host
