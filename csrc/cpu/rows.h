// Matrices of any real dtype, processed row by row in `Sum`: double for float64, float for the
// others. The loops below are left to the compiler's vectorizer.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/isa.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

template <class Function>
inline void for_each(int64_t count, const Function& f) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) f(i);
}

/// Sums in four independent chains, since a single chain is bound by the latency of additions.
template <class Sum, class Function>
inline Sum sum_over(int64_t count, const Function& term) {
  const int64_t quarter = count / 4;
  Sum a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < quarter; ++i) {
    a += term(i), b += term(quarter + i), c += term(2 * quarter + i), d += term(3 * quarter + i);
  }
  for (int64_t i = 4 * quarter; i < count; ++i) a += term(i);
  return (a + b) + (c + d);
}

/// Whether the machine has bfloat16 instructions. A build for AVX-512 also serves machines without
/// them, so they are written as inline assembly.
inline bool has_bf16_instructions() {
#if defined(__AVX512F__)
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

/// Rounds to nearest even; NaN stays NaN.
[[gnu::noinline]] inline void round_to_bf16(const float* from, int64_t count, uint16_t* to) {
  int64_t done = 0;
#if defined(__AVX512F__)
  for (; has_bf16_instructions() && done + 16 <= count; done += 16) {
    asm("vcvtneps2bf16 %1, %%ymm0\n\tvmovdqu %%ymm0, %0"
        : "=m"(*reinterpret_cast<uint16_t (*)[16]>(to + done))
        : "m"(*reinterpret_cast<const float (*)[16]>(from + done))
        : "xmm0");
  }
#endif
  for_each(count - done, [from = from + done, to = to + done](int64_t i) {
    const uint32_t bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    to[i] = from[i] == from[i] ? rounded : 0x7FC0;
  });
}

/// Convert float16 or bfloat16 to `Sum`, and back.
template <class Sum>
[[gnu::noinline]] void convert_from(Real dtype, const void* from, int64_t count, Sum* to) {
  if (dtype == Real::bf16) {
    const auto* bits = static_cast<const uint16_t*>(from);
    for_each(count, [=](int64_t i) { to[i] = std::bit_cast<float>(uint32_t{bits[i]} << 16); });
  } else {
    const auto* halves = static_cast<const c10::Half*>(from);
    for_each(count, [=](int64_t i) { to[i] = float(halves[i]); });
  }
}
[[gnu::noinline]] inline void convert_to(Real dtype, const float* from, int64_t count, void* to) {
  if (dtype == Real::bf16) return round_to_bf16(from, count, static_cast<uint16_t*>(to));
  auto* halves = static_cast<c10::Half*>(to);
  for_each(count, [=](int64_t i) { halves[i] = c10::Half(from[i]); });
}

inline int64_t element_size(Real dtype) {
  return dtype == Real::f64 ? 8 : dtype == Real::f32 ? 4 : 2;
}

/// One thread's view of a row-major matrix. A row is read in place if the dtype is `Sum`, else
/// through a converted copy. Without data every row reads as zeros.
template <class Sum>
class Rows {
 public:
  Rows(Real dtype, const void* data, int64_t cols)
      : data(static_cast<char*>(const_cast<void*>(data))),
        cols(cols),
        dtype_(dtype),
        converted_(dtype != kOwn),
        copy_(converted_ || !data ? cols : 0) {}

  char* data;
  int64_t cols;

  char* at(int64_t row) const { return data + row * cols * element_size(dtype_); }

  const Sum* read(int64_t row) {
    if (!data) return copy_.data();
    if (!converted_) return reinterpret_cast<const Sum*>(at(row));
    convert_from(dtype_, at(row), cols, copy_.data());
    return copy_.data();
  }

  /// A row for writing, until `close`.
  Sum* open(int64_t row) { return converted_ ? copy_.data() : reinterpret_cast<Sum*>(at(row)); }

  void close(int64_t row) {
    if constexpr (kOwn == Real::f32) {
      if (converted_) convert_to(dtype_, copy_.data(), cols, at(row));
    }
  }

 private:
  static constexpr Real kOwn = std::is_same_v<Sum, double> ? Real::f64 : Real::f32;
  Real dtype_;
  bool converted_;
  std::vector<Sum> copy_;
};

/// Rows that own their memory.
template <class Sum>
class Matrix : public Rows<Sum> {
 public:
  Matrix(Real dtype, int64_t rows, int64_t cols)
      : Rows<Sum>(dtype, nullptr, cols), memory_(rows * cols * element_size(dtype)) {
    this->data = memory_.data();
  }

 private:
  std::vector<char> memory_;
};

}  // namespace dapt::cpu::DAPT_ISA
