// Ball query on the CPU.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

void ball_query(const BallQueryArgs& a) {
  // parallel over B * M
  parallel_for(a.B * a.M, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* query = a.queries + 3 * row;
      const float* points = a.points + 3 * (row / a.M) * a.N;
      int64_t* idx = a.idx + row * a.K;
      int64_t found = 0;
      for (int64_t n = 0; n < a.N && found < a.K; ++n) {
        if (squared_distance(query, points + 3 * n) < a.sq_radius) idx[found++] = n;
      }
      const int64_t filler = found ? idx[0] : -1;
      while (found < a.K) idx[found++] = filler;
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
