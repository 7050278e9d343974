// Finds threads that access the same shared memory, at least one of them writing, with nothing to
// order the accesses. Kernels compiled with -fsanitize=thread call the hooks of races.cpp at each
// access; without it, nothing here runs. Internal to the layer.
//
// Two accesses are ordered by the same thread, a barrier of the block, the cluster or the grid,
// __syncwarp of the whole warp, and mail. Shuffles and votes do not order them: on a device they
// move registers and promise nothing about memory. Two atomics need no order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace dapt::on_host {

struct Access {
  const void* place = nullptr;  // in the code; null for no access
  // in its cluster; kUnordered for accesses that no thread's order covers
  std::uint32_t thread = 0;
  std::uint32_t block_epoch = 0, warp_epoch = 0, gang_epoch = 0, mail_epoch = 0;
  bool atomic = false;

  static constexpr std::uint32_t kUnordered = ~0u;

  unsigned block() const { return thread / 1024; }
  unsigned warp() const { return thread / 32; }
};

// Records for every two bytes of a block's shared memory who wrote last and who has read since: the
// last reader, the last one in another thread, and the last one in another warp.
class Shadow {
 public:
  // Returns the earlier access with which an access races, or null.
  const Access* touch(std::size_t begin, std::size_t bytes, std::size_t all_bytes, bool write,
                      const Access& now);

 private:
  struct Word {
    Access write, reads[3];
  };
  struct Free {
    void operator()(Word* words) const { std::free(words); }
  };
  std::unique_ptr<Word, Free> words_;
};

struct Block;

// The running thread's access at this place in the code.
Access access_now(const void* place);

// Records an access to `bytes` bytes at offset `begin` of a block's shared memory.
void touch(Block& block, std::size_t begin, std::size_t bytes, bool write, const Access& now);

// The races found since the launch began, one line each.
std::vector<std::string> take_races();

}  // namespace dapt::on_host
