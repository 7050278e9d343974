// What one thread sends and another sees later: messages to the shared memory of a cluster's
// blocks, relaxed stores to global memory, and copies that a thread waits for. As on a device, they
// arrive at some time in some order. Internal to the layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda_on_host/races.h"

namespace dapt::on_host {

struct Block;
struct Thread;

struct Message {
  Block* to;
  std::size_t slot, box;  // offsets in its shared memory
  unsigned char bytes[16];
  std::size_t size;
  void (*arrived)(void* box, int bytes);
  Access access;
};

struct RelaxedStore {
  unsigned long long *to, word;
  const Thread* by;
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  const void* place;  // in the code
};

struct Mail {
  std::vector<Message> messages;
  std::vector<RelaxedStore> stores;  // stores to one address stay in order

  // Delivers some of it, or everything.
  void deliver(bool all);
};

}  // namespace dapt::on_host
