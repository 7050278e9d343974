// torch's thread pool for kernels: `parallel_for(items, grain, f)` calls f(begin, end) on disjoint
// ranges that cover [0, items). Kernels throw only when memory runs out.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <cstdint>
#include <new>

namespace dapt::cpu {

template <class Function>
void parallel_for(int64_t items, int64_t grain, const Function& f) {
  if (items <= grain) {
    if (items > 0) f(int64_t{0}, items);
    return;
  }
  const AOTITorchError failed = torch_parallel_for(
      0, items, grain,
      [](int64_t begin, int64_t end, void* f) { (*static_cast<const Function*>(f))(begin, end); },
      const_cast<Function*>(&f));
  if (failed) throw std::bad_alloc();
}

}  // namespace dapt::cpu
