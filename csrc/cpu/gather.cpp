// Row gather and its repeatable backward on the CPU.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

void gather(const GatherArgs& a) {
  const auto* values = static_cast<const char*>(a.values);
  auto* out = static_cast<char*>(a.out);
  // parallel over B * Q
  parallel_for(a.B * a.Q, 1 + 65536 / (1 + a.row_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = a.idx[row];
      char* to = out + row * a.row_bytes;
      if (n < 0) {
        std::memset(to, 0, a.row_bytes);
      } else {
        std::memcpy(to, values + ((row / a.Q) * a.N + n) * a.row_bytes, a.row_bytes);
      }
    }
  });
}

namespace {

template <class T>
void sum_rows(const GatherBackwardArgs& a) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto* grad = static_cast<const T*>(a.grad);
  auto* grad_values = static_cast<T*>(a.grad_values);
  // One thread walks a cloud's slots in order, so the order of every sum is fixed.
  const int64_t slices = a.B >= 8 ? 1 : std::min<int64_t>(8, 1 + a.C / 64);
  // parallel over B * channel slices
  parallel_for(a.B * slices, 1, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sums;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / slices, slice = item % slices;
      const int64_t first = a.C * slice / slices, width = a.C * (slice + 1) / slices - first;
      sums.assign(a.N * width, 0);
      for (int64_t slot = b * a.Q * a.k; slot < (b + 1) * a.Q * a.k; ++slot) {
        const int64_t n = a.idx[slot];
        if (n < 0) continue;
        const T* from = grad + slot / a.k * a.C + first;
        const Sum weight = a.weights ? a.weights[slot] : 1;
        Sum* to = sums.data() + n * width;
        for (int64_t c = 0; c < width; ++c) to[c] += weight * Sum(from[c]);
      }
      for (int64_t n = 0; n < a.N; ++n) {
        T* to = grad_values + (b * a.N + n) * a.C + first;
        for (int64_t c = 0; c < width; ++c) to[c] = T(sums[n * width + c]);
      }
    }
  });
}

}  // namespace

void gather_backward(const GatherBackwardArgs& a) {
  switch (a.dtype) {
    case Real::f32: return sum_rows<float>(a);
    case Real::f64: return sum_rows<double>(a);
    case Real::f16: return sum_rows<c10::Half>(a);
    case Real::bf16: return sum_rows<c10::BFloat16>(a);
  }
}

}  // namespace dapt::cpu::DAPT_ISA
