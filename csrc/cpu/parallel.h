// torch's thread pool for kernels: `parallel_for(items, grain, f)` calls f(begin, end) on disjoint
// ranges that cover [0, items). Callers must not let an exception out of `f`.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <cstdint>

namespace dapt::cpu {

template <class Function>
void parallel_for(int64_t items, int64_t grain, const Function& f) {
  if (items <= grain) {
    if (items > 0) f(int64_t{0}, items);
    return;
  }
  torch_parallel_for(
      0, items, grain,
      [](int64_t begin, int64_t end, void* f) { (*static_cast<const Function*>(f))(begin, end); },
      const_cast<Function*>(&f));
}

}  // namespace dapt::cpu
