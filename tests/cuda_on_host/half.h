// float16 and bfloat16: storage and correctly rounded conversions. There is no arithmetic and no
// implicit conversion, so code that would compute in half precision on a device does not compile.
#pragma once

#include <bit>
#include <cstdint>

#include "cuda_on_host/types.h"

namespace dapt::on_host {

// Rounds to nearest, ties to even; NaN becomes 0x7fff as on a device.
constexpr std::uint16_t half_bits(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint16_t sign = std::uint16_t(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14 the step is 2^-24: add 2^-1
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | std::uint16_t(std::bit_cast<std::uint32_t>(shifted) - 0x3f000000);
  }
  const std::uint32_t odd = magnitude >> 13 & 1;
  return sign | std::uint16_t((magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

constexpr float half_value(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t(bits & 0x8000) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const float value = float(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

constexpr std::uint16_t bfloat16_bits(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr float bfloat16_value(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t(bits) << 16);
}

}  // namespace dapt::on_host

struct __half {
  unsigned short bits;
  __half() = default;
  explicit constexpr __half(float value) : bits(dapt::on_host::half_bits(value)) {}
  explicit constexpr operator float() const { return dapt::on_host::half_value(bits); }
};
struct __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  explicit constexpr __nv_bfloat16(float value) : bits(dapt::on_host::bfloat16_bits(value)) {}
  explicit constexpr operator float() const { return dapt::on_host::bfloat16_value(bits); }
};

using half = __half;

inline __half __float2half_rn(float value) { return __half(value); }
inline float __half2float(__half value) { return float(value); }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }

inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return float(value); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
