// Arithmetic and bit functions of one thread. Compile with -ffp-contract=off: then a multiply and
// an add round twice, as __fmul_rn and __fadd_rn do, and only __fmaf_rn rounds once.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include "cuda_on_host/execution.h"

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }

inline float rsqrtf(float a) { return float(1.0 / std::sqrt(double(a))); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float __sinf(float a) { return std::sin(a); }
inline float __cosf(float a) { return std::cos(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline long long __double_as_longlong(double a) { return std::bit_cast<long long>(a); }
inline double __longlong_as_double(long long a) { return std::bit_cast<double>(a); }

namespace dapt::on_host {

// What a conversion to an integer gives on a device: saturated, and 0 for NaN.
template <class T>
T to_integer(double a) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(a)) return 0;
  if (a <= double(Limits::min())) return Limits::min();
  if (a >= double(Limits::max())) return Limits::max();
  return T(a);
}

}  // namespace dapt::on_host

inline int __float2int_rn(float a) { return dapt::on_host::to_integer<int>(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return dapt::on_host::to_integer<int>(std::trunc(a)); }
inline int __float2int_rd(float a) { return dapt::on_host::to_integer<int>(std::floor(a)); }
inline int __float2int_ru(float a) { return dapt::on_host::to_integer<int>(std::ceil(a)); }
inline unsigned __float2uint_rn(float a) {
  return dapt::on_host::to_integer<unsigned>(std::nearbyint(a));
}
inline unsigned __float2uint_rz(float a) {
  return dapt::on_host::to_integer<unsigned>(std::trunc(a));
}
inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }

inline int __popc(unsigned a) { return std::popcount(a); }
inline int __popcll(unsigned long long a) { return std::popcount(a); }
inline int __clz(int a) { return std::countl_zero(unsigned(a)); }
inline int __clzll(long long a) { return std::countl_zero(static_cast<unsigned long long>(a)); }
inline int __ffs(int a) { return a ? std::countr_zero(unsigned(a)) + 1 : 0; }
inline int __ffsll(long long a) {
  return a ? std::countr_zero(static_cast<unsigned long long>(a)) + 1 : 0;
}
inline unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((std::uint64_t(high) << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((std::uint64_t(high) << 32) | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = (std::uint64_t(b) << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 0xf;
    unsigned byte = unsigned(bytes >> (8 * (choice & 7))) & 0xff;
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;  // its sign, spread
    result |= byte << (8 * i);
  }
  return result;
}
inline int __mulhi(int a, int b) { return int((std::int64_t(a) * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((std::uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

#define DAPT_MIN_MAX(type)                                     \
  constexpr type min(type a, type b) { return b < a ? b : a; } \
  constexpr type max(type a, type b) { return a < b ? b : a; }
DAPT_MIN_MAX(int)
DAPT_MIN_MAX(unsigned)
DAPT_MIN_MAX(long)
DAPT_MIN_MAX(unsigned long)
DAPT_MIN_MAX(long long)
DAPT_MIN_MAX(unsigned long long)
#undef DAPT_MIN_MAX
// A NaN loses, as on a device.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

[[noreturn]] inline void __trap() { dapt::on_host::fail("stops at __trap()"); }
