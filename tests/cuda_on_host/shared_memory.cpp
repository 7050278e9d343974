#include "cuda_on_host/shared_memory.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "cuda_on_host/sanitizer.h"

namespace dapt::on_host {
namespace {

constexpr std::size_t kAlignment = 128;  // the strictest alignment of any user of shared memory

thread_local volatile char image_marker;  // ensures that the image exists in every thread

void fill(std::span<std::byte> bytes, std::uint32_t pattern) {
  for (std::size_t i = 0; i < bytes.size(); i += sizeof pattern)
    std::memcpy(&bytes[i], &pattern, std::min(sizeof pattern, bytes.size() - i));
}

int match_own_image(dl_phdr_info* info, std::size_t, void* found) {
  const auto here = reinterpret_cast<ElfW(Addr)>(&match_own_image) - info->dlpi_addr;
  std::size_t image_bytes = 0;
  bool own = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS) image_bytes = header.p_memsz;
    if (header.p_type == PT_LOAD) own |= here - header.p_vaddr < header.p_memsz;
  }
  if (!own) return 0;
  *static_cast<std::span<std::byte>*>(found) = {static_cast<std::byte*>(info->dlpi_tls_data),
                                                image_bytes};
  return 1;
}

}  // namespace

std::span<std::byte> static_shared_image() {
  image_marker = 0;
  std::span<std::byte> image;
  dl_iterate_phdr(match_own_image, &image);
  return image;
}

SharedMemory::SharedMemory(std::size_t dynamic_bytes, std::span<std::byte> image)
    : dynamic_bytes_(dynamic_bytes), image_(image), static_copy_(image.size()) {
  void* bytes = nullptr;
  if (posix_memalign(&bytes, kAlignment, dynamic_bytes)) throw std::bad_alloc();
  dynamic_.reset(static_cast<std::byte*>(bytes));
  __asan_poison_memory_region(dynamic(), dynamic_bytes_);
}

void SharedMemory::begin(std::uint32_t pattern) {
  resident_ = false;
  __asan_unpoison_memory_region(dynamic(), dynamic_bytes_);
  fill({dynamic(), dynamic_bytes_}, pattern);
  fill(static_copy_, pattern);
}

void SharedMemory::end(std::uint32_t pattern) {
  fill({dynamic(), dynamic_bytes_}, pattern);
  fill(statics(), pattern);
  __asan_poison_memory_region(dynamic(), dynamic_bytes_);
}

void SharedMemory::move_in() {
  std::ranges::copy(static_copy_, image_.begin());
  resident_ = true;
}

void SharedMemory::move_out() {
  std::ranges::copy(image_, static_copy_.begin());
  resident_ = false;
}

std::optional<std::size_t> SharedMemory::offset_of(const void* address) const {
  const auto* byte = static_cast<const std::byte*>(address);
  if (byte >= dynamic() && byte < dynamic() + dynamic_bytes_) return byte - dynamic();
  if (byte >= image_.data() && byte < image_.data() + image_.size())
    return dynamic_bytes_ + (byte - image_.data());
  return std::nullopt;
}

std::byte* SharedMemory::at(std::size_t offset) {
  return offset < dynamic_bytes_ ? dynamic() + offset : &statics()[offset - dynamic_bytes_];
}

std::byte* SharedMemory::counterpart(const void* address, const SharedMemory& other) {
  const auto offset = other.offset_of(address);
  return offset ? at(*offset) : nullptr;
}

}  // namespace dapt::on_host
