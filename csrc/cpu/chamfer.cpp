// Nearest points of two clouds in each other, on the CPU.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

void nearest(const float* queries, const float* points, int64_t B, int64_t M, int64_t N,
             float* sq_dist, int64_t* idx) {
  // parallel over B * M
  parallel_for(B * M, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* cloud = points + 3 * (row / M) * N;
      float best = squared_distance(queries + 3 * row, cloud);
      int64_t best_at = 0;
      for (int64_t n = 1; n < N; ++n) {
        const float d = squared_distance(queries + 3 * row, cloud + 3 * n);
        if (d < best) best = d, best_at = n;
      }
      sq_dist[row] = best, idx[row] = best_at;
    }
  });
}

}  // namespace

void chamfer(const ChamferArgs& args) {
  nearest(args.a, args.b, args.B, args.N, args.M, args.sq_ab, args.idx_ab);
  nearest(args.b, args.a, args.B, args.M, args.N, args.sq_ba, args.idx_ba);
}

}  // namespace dapt::cpu::DAPT_ISA
