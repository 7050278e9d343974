// Row gather and its repeatable backward on the CPU.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

// A row size known at compile time turns the copy of a short row into a few moves; 0 means unknown.
template <int64_t kRowBytes>
void copy_rows(const GatherArgs& a) {
  const int64_t bytes = kRowBytes ? kRowBytes : a.row_bytes;
  // parallel over B * Q
  parallel_for(a.B * a.Q, 1 + 65536 / bytes, [&](int64_t begin, int64_t end) {
    const char* cloud = static_cast<const char*>(a.values) + begin / a.Q * a.N * bytes;
    char* out = static_cast<char*>(a.out) + begin * bytes;
    for (int64_t row = begin, left = a.Q - begin % a.Q; row < end; ++row, out += bytes) {
      if (left-- == 0) cloud += a.N * bytes, left = a.Q - 1;
      if (a.idx[row] < 0) {
        std::memset(out, 0, bytes);
      } else {
        std::memcpy(out, cloud + a.idx[row] * bytes, bytes);
      }
    }
  });
}

// Each sum belongs to one thread, which adds its terms in ascending order of slots.
template <class T>
void sum_rows(const GatherBackwardArgs& a) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t slices = std::max<int64_t>(1, a.C / 128);
  // parallel over B * slices of the channels
  parallel_for(a.B * slices, 1, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sums;  // [N, width]
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / slices, slice = item % slices;
      const int64_t first = a.C * slice / slices, width = a.C * (slice + 1) / slices - first;
      const T* grad = static_cast<const T*>(a.grad) + b * a.Q * a.C + first;
      sums.assign(a.N * width, 0);
      for (int64_t slot = b * a.Q * a.k, q = 0; q < a.Q; ++q, grad += a.C) {
        for (int64_t j = 0; j < a.k; ++j, ++slot) {
          if (a.idx[slot] < 0) continue;
          const Sum weight = a.weights ? a.weights[slot] : 1;
          Sum* sum = sums.data() + a.idx[slot] * width;
          for (int64_t c = 0; c < width; ++c) sum[c] += weight * Sum(grad[c]);
        }
      }
      T* out = static_cast<T*>(a.grad_values) + b * a.N * a.C + first;
      for (int64_t n = 0; n < a.N; ++n) {
        std::copy_n(sums.data() + n * width, width, out + n * a.C);
      }
    }
  });
}

}  // namespace

void gather(const GatherArgs& a) {
  switch (a.row_bytes) {
    case 4: return copy_rows<4>(a);
    case 6: return copy_rows<6>(a);
    case 8: return copy_rows<8>(a);
    case 12: return copy_rows<12>(a);
    case 24: return copy_rows<24>(a);
    default: return copy_rows<0>(a);
  }
}

void gather_backward(const GatherBackwardArgs& a) {
  switch (a.dtype) {
    case Real::f32: return sum_rows<float>(a);
    case Real::f64: return sum_rows<double>(a);
    case Real::f16: return sum_rows<c10::Half>(a);
    case Real::bf16: return sum_rows<c10::BFloat16>(a);
  }
}

}  // namespace dapt::cpu::DAPT_ISA
