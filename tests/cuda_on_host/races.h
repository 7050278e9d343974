// Finds threads that touch the same shared memory, one of them to write, with nothing between that
// orders them. Kernels compiled with -fsanitize=thread call the hooks of races.cpp at each access;
// without it nothing here runs. Internal to the layer.
//
// What orders two accesses: the same thread, a barrier of the block, the cluster or the grid,
// __syncwarp of the whole warp, and mail. Shuffles and votes do not: on a device they move
// registers and promise nothing of memory. Two atomics need no order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace dapt::on_host {

struct Access {
  const void* place = nullptr;  // in the code; null: there was none
  std::uint32_t thread = 0;     // of its cluster; kUnordered for what no thread's order holds
  std::uint32_t block_epoch = 0, warp_epoch = 0, gang_epoch = 0, mail_epoch = 0;
  bool atomic = false;

  static constexpr std::uint32_t kUnordered = ~0u;

  unsigned block() const { return thread / 1024; }
  unsigned warp() const { return thread / 32; }
};

// Of a block's shared memory, for each two bytes who wrote last, and who has read since: the last
// reader, and the last of another thread and of another warp than his.
class Shadow {
 public:
  // Where an access comes without order after an earlier one, that one; else null.
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

// The access of the running thread at this place in the code.
Access access_now(const void* place);

// Notes an access to `bytes` bytes at `begin` of a block's shared memory.
void touch(Block& block, std::size_t begin, std::size_t bytes, bool write, const Access& now);

// What was found since the launch began; one line each.
std::vector<std::string> take_races();

}  // namespace dapt::on_host
