// Weighted sums of neighbours' values on the CPU.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

void interpolate(const InterpolateArgs& a) {
  // parallel over B * M
  parallel_for(a.B * a.M, 1 + 16384 / (1 + a.C * a.k), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* values = a.values + (row / a.M) * a.N * a.C;
      float* out = a.out + row * a.C;
      for (int64_t c = 0; c < a.C; ++c) out[c] = 0;
      for (int64_t j = 0; j < a.k; ++j) {
        const float* value = values + a.idx[row * a.k + j] * a.C;
        const float weight = a.weights[row * a.k + j];
        for (int64_t c = 0; c < a.C; ++c) out[c] += weight * value[c];
      }
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
