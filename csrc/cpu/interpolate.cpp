// Weighted sums of neighbors' values on the CPU.
#include <algorithm>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kChannels = 64;  // summed at a time, in registers

// Sums `count` channels, which is a compile-time constant except at the end of a row.
inline void sum_channels(const float* values, const int64_t* idx, const float* weights, int64_t k,
                         int64_t C, int64_t count, float* out) {
  float sums[kChannels] = {};
  for (int64_t j = 0; j < k; ++j) {
    if (idx[j] < 0) continue;
    const float* value = values + idx[j] * C;
    for (int64_t c = 0; c < count; ++c) sums[c] += weights[j] * value[c];
  }
  std::copy(sums, sums + count, out);
}

}  // namespace

void interpolate(const InterpolateArgs& a) {
  // parallel over B * M
  parallel_for(a.B * a.M, 1 + 16384 / (a.C * (a.k + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* values = a.values + row / a.M * a.N * a.C;
      const int64_t* idx = a.idx + row * a.k;
      const float* weights = a.weights + row * a.k;
      float* out = a.out + row * a.C;
      int64_t c = 0;
      for (; c + kChannels <= a.C; c += kChannels) {
        sum_channels(values + c, idx, weights, a.k, a.C, kChannels, out + c);
      }
      if (c < a.C) sum_channels(values + c, idx, weights, a.k, a.C, a.C - c, out + c);
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
