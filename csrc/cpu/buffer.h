// Scratch memory aligned to cache lines.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "cpu/isa.h"

namespace dapt::cpu::DAPT_ISA {

/// An uninitialized array aligned to a cache line. A large one asks for huge pages, because most of
/// its cost would otherwise be page faults.
struct FreeBuffer {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], FreeBuffer>;
template <class T>
Buffer<T> make_buffer(int64_t count) {
  constexpr size_t kLine = 64, kHugePage = 2 << 20;
  const size_t align = count * sizeof(T) < kHugePage ? kLine : kHugePage;
  const size_t bytes = (std::max<size_t>(count * sizeof(T), 1) + align - 1) / align * align;
  void* p = std::aligned_alloc(align, bytes);
  if (!p) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (align == kHugePage) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return Buffer<T>(static_cast<T*>(p));
}

template <class T>
Buffer<T> make_zeros(int64_t count) {
  Buffer<T> out = make_buffer<T>(count);
  std::memset(out.get(), 0, count * sizeof(T));
  return out;
}

}  // namespace dapt::cpu::DAPT_ISA
