#include "cuda_on_host/races.h"

#include <dlfcn.h>

#include <cstdio>
#include <set>
#include <tuple>

#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {
namespace {

bool ordered(const Access& before, const Access& now) {
  if (!before.place || (before.atomic && now.atomic)) return true;
  if (before.gang_epoch < now.gang_epoch || before.mail_epoch < now.mail_epoch) return true;
  if (before.thread == Access::kUnordered || now.thread == Access::kUnordered) return false;
  if (before.thread == now.thread) return true;
  if (before.block() == now.block() && before.block_epoch < now.block_epoch) return true;
  return before.warp() == now.warp() && before.warp_epoch < now.warp_epoch;
}

// "fps.cu:207"
std::string place_in_source(const void* place) {
  Dl_info info{};
  if (!dladdr(place, &info)) return "?";
  const auto offset = static_cast<const char*>(place) - static_cast<char*>(info.dli_fbase) - 1;
  char command[1024], line[1024] = "";
  std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2> /dev/null", info.dli_fname,
                static_cast<unsigned long>(offset));
  if (std::FILE* const pipe = popen(command, "r")) {
    if (!std::fgets(line, sizeof line, pipe)) line[0] = '\0';
    pclose(pipe);
  }
  std::string found = line;
  found = found.substr(0, found.find_first_of(" \n"));
  return found.substr(found.rfind('/') + 1);
}

using Race = std::tuple<const void*, const void*, bool>;
std::set<Race> races;  // places of the earlier and the later access, and whether the latter writes

}  // namespace

const Access* Shadow::touch(std::size_t begin, std::size_t bytes, std::size_t all_bytes, bool write,
                            const Access& now) {
  // calloc, because most of a large memory is never touched.
  if (!words_) words_.reset(static_cast<Word*>(std::calloc(all_bytes / 2 + 1, sizeof(Word))));
  const Access* race = nullptr;
  for (std::size_t i = begin / 2; i <= (begin + bytes - 1) / 2; ++i) {
    Word& word = words_.get()[i];
    if (!ordered(word.write, now)) race = &word.write;
    auto& [last, of_another_thread, of_another_warp] = word.reads;
    if (write) {
      for (const Access& read : word.reads)
        if (!ordered(read, now)) race = &read;
      static thread_local Access kept;
      if (race) race = &(kept = *race);  // copied, because the word is overwritten below
      word = {.write = now, .reads = {}};
    } else {
      if (last.place && last.warp() != now.warp())
        of_another_warp = last;
      else if (last.place && last.thread != now.thread)
        of_another_thread = last;
      last = now;
    }
  }
  return race;
}

Access access_now(const void* place) {
  const Thread& self = *execution.self;
  const Block& block = *self.block;
  return {.place = place,
          .thread = block.rank * 1024 + self.index,
          .block_epoch = block.epoch,
          .warp_epoch = block.warp_epochs[self.warp()],
          .gang_epoch = std::uint32_t(execution.gang->phase),
          .mail_epoch = self.mail_epoch,
          .atomic = execution.accesses == Accesses::atomic};
}

void touch(Block& block, std::size_t begin, std::size_t bytes, bool write, const Access& now) {
  ++execution.counters.watched;
  const Access* const before = block.shadow.touch(begin, bytes, block.shared.bytes(), write, now);
  if (before) races.insert({before->place, now.place, write});
}

std::vector<std::string> take_races() {
  std::vector<std::string> lines;
  for (const auto& [before, now, writes] : races)
    lines.push_back("shared memory is touched at " + place_in_source(before) + " and then " +
                    (writes ? "written" : "read") + " at " + place_in_source(now) +
                    " by other threads, with nothing between that orders them");
  races.clear();
  return lines;
}

static void touch(const void* address, std::size_t bytes, bool write, const void* place) {
  Thread* const self = execution.self;
  if (!self || !Fiber::inside() || execution.accesses == Accesses::ignored) return;
  // GCC keeps a guard byte beside a static variable of class type, such as __half, that says
  // whether it was constructed. Therefore single-byte accesses are not watched.
  if (bytes == 1) return;
  // An atomic also writes what it reads, but counts as one request.
  const bool atomic = execution.accesses == Accesses::atomic;
  if (write || !atomic) note_access(address, bytes, place, atomic);
  const auto found = self->block->shared.offset_of(address);
  if (found) touch(*self->block, *found, bytes, write, access_now(place));
}

}  // namespace dapt::on_host

// The functions that the compiler inserts calls to.
extern "C" {
#define DAPT_HOOK(name, bytes, write)                                         \
  void __tsan_##name(void* address) {                                         \
    dapt::on_host::touch(address, bytes, write, __builtin_return_address(0)); \
  }
#define DAPT_HOOKS(bytes)                        \
  DAPT_HOOK(read##bytes, bytes, false)           \
  DAPT_HOOK(write##bytes, bytes, true)           \
  DAPT_HOOK(unaligned_read##bytes, bytes, false) \
  DAPT_HOOK(unaligned_write##bytes, bytes, true)
DAPT_HOOKS(1)
DAPT_HOOKS(2)
DAPT_HOOKS(4)
DAPT_HOOKS(8)
DAPT_HOOKS(16)
#undef DAPT_HOOKS
#undef DAPT_HOOK
void __tsan_read_range(void* address, unsigned long bytes) {
  dapt::on_host::touch(address, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
  dapt::on_host::touch(address, bytes, true, __builtin_return_address(0));
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
