// Barriers and warp collectives. `where` is the place of the call; threads that wait at different
// places do not meet.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_on_host/execution.h"
#include "cuda_on_host/half.h"

namespace dapt::on_host {

template <class T>
concept Shuffled =
    std::is_arithmetic_v<T> || std::same_as<T, __half> || std::same_as<T, __nv_bfloat16>;

template <class T>
std::uint64_t to_bits(T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Gives every lane the value of lane source(lane, argument, width).
template <class T, class Source>
T shuffle(const char* name, unsigned mask, T value, unsigned argument, int width, Source,
          Where where) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail(std::string(name) + " needs a width of 1, 2, 4, 8, 16 or 32, got " +
         std::to_string(width));
  const auto combine = [](Lanes& lanes) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(lanes.mask >> lane & 1)) continue;
      const int width = int(lanes.argument[lane] >> 16);
      const int argument = int(lanes.argument[lane] & 0xffff);
      const int source = Source()(int(lane), argument, width);
      // The value of a lane outside the mask is undefined; this bit pattern shows up as wrong.
      lanes.result[lane] = lanes.mask >> source & 1 ? lanes.value[source] : 0xfff8dead'fff8dead;
    }
  };
  const unsigned packed = (argument & 0xffff) | unsigned(width) << 16;
  return from_bits<T>(warp_collective(name, mask, to_bits(value), packed, combine, where));
}

// Folds the values of the mask's lanes into one, which every lane receives.
template <class T, class Fold>
T reduce(const char* name, unsigned mask, T value, Fold, Where where) {
  const auto combine = [](Lanes& lanes) {
    unsigned left = lanes.mask;
    T folded = from_bits<T>(lanes.value[std::countr_zero(left)]);
    while (left &= left - 1)
      folded = Fold()(folded, from_bits<T>(lanes.value[std::countr_zero(left)]));
    for (left = lanes.mask; left; left &= left - 1)
      lanes.result[std::countr_zero(left)] = to_bits(folded);
  };
  return from_bits<T>(warp_collective(name, mask, to_bits(value), 0, combine, where));
}

// Gives every lane of the mask the values of all of them in out[lane], leaving lanes outside the
// mask untouched. For host bodies of wrappers such as mma.
template <class T>
  requires std::is_trivially_copyable_v<T>
void gather_lanes(unsigned mask, const T& own, T (&out)[32], Where where = Where::current()) {
  struct Exchange {
    const T* own;
    T* out;
  } exchange{&own, out};
  const auto combine = [](Lanes& lanes) {
    for (unsigned to = lanes.mask; to; to &= to - 1)
      for (unsigned from = lanes.mask; from; from &= from - 1) {
        const int i = std::countr_zero(from);
        reinterpret_cast<Exchange*>(lanes.value[std::countr_zero(to)])->out[i] =
            *reinterpret_cast<Exchange*>(lanes.value[i])->own;
      }
  };
  warp_collective("gather_lanes", mask, reinterpret_cast<std::uint64_t>(&exchange), 0, combine,
                  where);
}

}  // namespace dapt::on_host

inline void __syncthreads(dapt::on_host::Where where = dapt::on_host::Where::current()) {
  dapt::on_host::block_barrier("__syncthreads", false, where);
}
inline int __syncthreads_count(int predicate,
                               dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return int(dapt::on_host::block_barrier("__syncthreads_count", predicate != 0, where));
}
inline int __syncthreads_or(int predicate,
                            dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::block_barrier("__syncthreads_or", predicate != 0, where) != 0;
}
inline int __syncthreads_and(int predicate,
                             dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::block_barrier("__syncthreads_and", predicate == 0, where) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffff,
                       dapt::on_host::Where where = dapt::on_host::Where::current()) {
  dapt::on_host::warp_collective("__syncwarp", mask, 0, 0, [](dapt::on_host::Lanes&) {}, where);
}

template <dapt::on_host::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::shuffle(
      "__shfl_sync", mask, value, unsigned(source), width,
      [](int lane, int source, int width) {
        return (lane & ~(width - 1)) | (source & (width - 1));
      },
      where);
}
template <dapt::on_host::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::shuffle(
      "__shfl_up_sync", mask, value, delta, width,
      [](int lane, int delta, int width) {
        return (lane & (width - 1)) >= delta ? lane - delta : lane;
      },
      where);
}
template <dapt::on_host::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::shuffle(
      "__shfl_down_sync", mask, value, delta, width,
      [](int lane, int delta, int width) {
        return (lane & (width - 1)) + delta < width ? lane + delta : lane;
      },
      where);
}
template <dapt::on_host::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::shuffle(
      "__shfl_xor_sync", mask, value, unsigned(lane_mask), width,
      [](int lane, int lane_mask, int width) {
        // A lane may read from an earlier segment of its warp, but not from a later one.
        const int source = lane ^ lane_mask;
        return source < (lane & ~(width - 1)) + width ? source : lane;
      },
      where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              dapt::on_host::Where where = dapt::on_host::Where::current()) {
  const unsigned bit = predicate ? 1u << dapt::on_host::lane_index() : 0;
  return dapt::on_host::reduce("__ballot_sync", mask, bit, std::bit_or<>(), where);
}
inline int __any_sync(unsigned mask, int predicate,
                      dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::reduce("__any_sync", mask, int(predicate != 0), std::bit_or<>(), where);
}
inline int __all_sync(unsigned mask, int predicate,
                      dapt::on_host::Where where = dapt::on_host::Where::current()) {
  return dapt::on_host::reduce("__all_sync", mask, int(predicate != 0), std::bit_and<>(), where);
}

template <class T>
  requires std::is_arithmetic_v<T>
unsigned __match_any_sync(unsigned mask, T value,
                          dapt::on_host::Where where = dapt::on_host::Where::current()) {
  const auto combine = [](dapt::on_host::Lanes& lanes) {
    for (unsigned a = lanes.mask; a; a &= a - 1) {
      const int lane = std::countr_zero(a);
      lanes.result[lane] = 0;
      for (unsigned b = lanes.mask; b; b &= b - 1)
        if (lanes.value[std::countr_zero(b)] == lanes.value[lane])
          lanes.result[lane] |= 1u << std::countr_zero(b);
    }
  };
  return unsigned(dapt::on_host::warp_collective("__match_any_sync", mask,
                                                 dapt::on_host::to_bits(value), 0, combine, where));
}

// What compute capability 8.0 reduces in one instruction: 32-bit integers.
#define DAPT_REDUCE_SYNC(op, type, fold)                                                           \
  inline type __reduce_##op##_sync(unsigned mask, type value,                                      \
                                   dapt::on_host::Where where = dapt::on_host::Where::current()) { \
    return dapt::on_host::reduce(                                                                  \
        "__reduce_" #op "_sync", mask, value, [](type a, type b) -> type { return fold; }, where); \
  }
DAPT_REDUCE_SYNC(add, unsigned, a + b)
DAPT_REDUCE_SYNC(min, unsigned, a < b ? a : b)
DAPT_REDUCE_SYNC(max, unsigned, a > b ? a : b)
DAPT_REDUCE_SYNC(add, int, int(unsigned(a) + unsigned(b)))
DAPT_REDUCE_SYNC(min, int, a < b ? a : b)
DAPT_REDUCE_SYNC(max, int, a > b ? a : b)
DAPT_REDUCE_SYNC(and, unsigned, a& b)
DAPT_REDUCE_SYNC(or, unsigned, a | b)
DAPT_REDUCE_SYNC(xor, unsigned, a ^ b)
#undef DAPT_REDUCE_SYNC
