#include "cuda_on_host/traffic.h"

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {
namespace {

constexpr std::uintptr_t kBanks = 32, kWord = 4, kSector = 32;

std::map<const void*, Traffic> by_kernel;

using Request = std::vector<std::pair<unsigned, Touched>>;  // accesses, ordered by lane

// A wavefront delivers one word from each bank. Lanes that access 8 bytes are served 16 at a time,
// those that access 16 bytes 8 at a time. Lanes that access the same word share it, except that
// atomics take turns.
void count_shared(const Request& request, Traffic& sums) {
  const std::uintptr_t widest = std::ranges::max_element(request, {}, [](const auto& one) {
                                  return one.second.bytes;
                                })->second.bytes;
  const unsigned at_once = unsigned(32 * kWord / std::max(widest, kWord));
  ++sums.shared_requests;
  for (unsigned first = 0; first < 32; first += at_once) {
    std::multiset<std::uintptr_t> words;
    for (const auto& [lane, access] : request) {
      if (lane < first || lane >= first + at_once) continue;
      const std::uintptr_t end = access.from + access.bytes;
      for (std::uintptr_t word = access.from / kWord; word * kWord < end; ++word)
        if (access.atomic || !words.contains(word)) words.insert(word);
    }
    if (words.empty()) continue;
    unsigned of_banks[kBanks] = {};
    for (const std::uintptr_t word : words) ++of_banks[word % kBanks];
    sums.wavefronts += *std::ranges::max_element(of_banks);
    ++sums.least_wavefronts;
  }
}

bool lies_in(std::span<const std::byte> memory, const void* address) {
  const auto* byte = static_cast<const std::byte*>(address);
  return byte >= memory.data() && byte < memory.data() + memory.size();
}

// The stack of the launching thread, which holds the kernel's arguments.
std::span<const std::byte> own_stack() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  std::size_t bytes = 0;
  if (!pthread_getattr_np(pthread_self(), &attributes)) {
    pthread_attr_getstack(&attributes, &begin, &bytes);
    pthread_attr_destroy(&attributes);
  }
  return {static_cast<const std::byte*>(begin), bytes};
}

// The code and the constants of this binary.
std::span<const std::byte> own_binary() {
  std::span<const std::byte> found;
  const auto match = [](dl_phdr_info* info, std::size_t, void* result) {
    const auto here = reinterpret_cast<ElfW(Addr)>(&own_binary) - info->dlpi_addr;
    std::size_t end = 0;
    bool own = false;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr) & header = info->dlpi_phdr[i];
      if (header.p_type != PT_LOAD) continue;
      own |= here - header.p_vaddr < header.p_memsz;
      end = std::max<std::size_t>(end, header.p_vaddr + header.p_memsz);
    }
    if (!own) return 0;
    *static_cast<std::span<const std::byte>*>(result) = {
        reinterpret_cast<const std::byte*>(info->dlpi_addr), end};
    return 1;
  };
  dl_iterate_phdr(match, &found);
  return found;
}

// Whether an address belongs to a thread's own variables, the host or the layer, and not to device
// memory.
bool is_private(const void* address) {
  static const std::span<const std::byte> stack = own_stack(), binary = own_binary();
  return lies_in(execution.stacks, address) || lies_in(stack, address) || lies_in(binary, address);
}

void count_global(const Request& request, Traffic& sums) {
  std::set<std::uintptr_t> bytes, sectors;
  for (const auto& [lane, access] : request)
    for (std::uintptr_t byte = access.from; byte < access.from + access.bytes; ++byte) {
      bytes.insert(byte);
      sectors.insert(byte / kSector);
    }
  ++sums.global_requests;
  sums.sectors += sectors.size();
  sums.least_sectors += (bytes.size() + kSector - 1) / kSector;
}

}  // namespace

void count_traffic(bool on) {
  execution.counts_traffic = on;
  by_kernel.clear();
}

std::vector<Traffic> traffic() {
  std::vector<Traffic> all;
  for (const auto& [code, sums] : by_kernel) all.push_back(sums);
  return all;
}

void note_access(const void* address, std::size_t bytes, const void* place, bool atomic) {
  if (!execution.counts_traffic) return;
  Thread& self = *execution.self;
  const auto at = self.block->shared.offset_of(address);
  if (!at && is_private(address)) return;
  self.touched.push_back({place, at ? *at : reinterpret_cast<std::uintptr_t>(address),
                          std::uint32_t(bytes), at.has_value(), atomic});
}

void put_together(Block& block, unsigned warp) {
  if (!execution.counts_traffic) return;
  // by place, and by how often it was reached before
  std::map<std::pair<const void*, unsigned>, Request> requests;
  const std::size_t end = std::min<std::size_t>(warp * 32 + 32, block.threads.size());
  for (std::size_t i = warp * 32; i < end; ++i) {
    Thread& thread = block.threads[i];
    std::map<const void*, unsigned> times;
    for (const Touched& access : thread.touched)
      requests[{access.place, times[access.place]++}].push_back({thread.lane(), access});
    thread.touched.clear();
  }
  Traffic& sums = by_kernel[execution.launch->code];
  sums.kernel = execution.launch->kernel;
  sums.code = static_cast<const std::byte*>(execution.launch->code) - own_binary().data();
  for (const auto& [place, request] : requests)
    request.front().second.shared ? count_shared(request, sums) : count_global(request, sums);
}

}  // namespace dapt::on_host
