// Atomics. Only one thread runs at a time, so plain operations are atomic. Each may yield first, so
// that their order is as arbitrary as on a device, and loops that spin on one come to an end.
#pragma once

#include <algorithm>
#include <bit>

#include "cuda_on_host/execution.h"

namespace dapt::on_host {

template <class T, class Update>
T atomic_update(T* address, Update update) {
  maybe_yield();
  set_accesses(Accesses::atomic);
  const T old = *address;
  *address = update(old);
  set_accesses(Accesses::plain);
  return old;
}

}  // namespace dapt::on_host

#define DAPT_ATOMIC(name, type, result)                                                     \
  inline type name(type* address, type value) {                                             \
    return dapt::on_host::atomic_update(address, [=](type old) -> type { return result; }); \
  }
#define DAPT_ATOMIC_INTEGERS(name, result) \
  DAPT_ATOMIC(name, int, result)           \
  DAPT_ATOMIC(name, unsigned, result)      \
  DAPT_ATOMIC(name, unsigned long long, result)

DAPT_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))
DAPT_ATOMIC(atomicAdd, unsigned, old + value)
DAPT_ATOMIC(atomicAdd, unsigned long long, old + value)
DAPT_ATOMIC(atomicAdd, float, old + value)
DAPT_ATOMIC(atomicAdd, double, old + value)
DAPT_ATOMIC_INTEGERS(atomicMin, std::min(old, value))
DAPT_ATOMIC(atomicMin, long long, std::min(old, value))
DAPT_ATOMIC_INTEGERS(atomicMax, std::max(old, value))
DAPT_ATOMIC(atomicMax, long long, std::max(old, value))
DAPT_ATOMIC_INTEGERS(atomicExch, (static_cast<void>(old), value))
DAPT_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
#undef DAPT_ATOMIC
#undef DAPT_ATOMIC_INTEGERS

#define DAPT_ATOMIC_CAS(type)                                                                     \
  inline type atomicCAS(type* address, type expected, type value) {                               \
    return dapt::on_host::atomic_update(address,                                                  \
                                        [=](type old) { return old == expected ? value : old; }); \
  }
DAPT_ATOMIC_CAS(int)
DAPT_ATOMIC_CAS(unsigned)
DAPT_ATOMIC_CAS(unsigned long long)
DAPT_ATOMIC_CAS(unsigned short)
#undef DAPT_ATOMIC_CAS

inline void __threadfence() {}
