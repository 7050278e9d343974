// Farthest point sampling on the CPU.
#include <limits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

// One cloud as structure of arrays, padded to whole vectors with points that are never chosen.
void sample_cloud(const float* points, int64_t count, int64_t start, int64_t M,
                  bool skip_near_origin, int64_t* idx) {
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  std::vector<float> buffer(4 * padded);
  float *x = buffer.data(), *y = x + padded, *z = y + padded, *nearest = z + padded;
  for (int64_t n = 0; n < padded; ++n) {
    const float* p = points + 3 * (n < count ? n : 0);
    x[n] = p[0], y[n] = p[1], z[n] = p[2];
    const bool hidden = skip_near_origin && p[0] * p[0] + p[1] * p[1] + p[2] * p[2] <= 1e-3f;
    nearest[n] = n < count && !hidden ? std::numeric_limits<float>::infinity() : -1.0f;
  }
  int64_t last = start;
  for (int64_t m = 0;; ++m) {
    idx[m] = last;
    if (m + 1 == M) return;
    nearest[last] = -1.0f;
    float best = -1.0f;
    int64_t best_at = start;
    for (int64_t n = 0; n < count; ++n) {
      if (nearest[n] < 0) continue;
      const float d = squared_distance(points + 3 * n, points + 3 * last);
      nearest[n] = d < nearest[n] ? d : nearest[n];
      if (nearest[n] > best) best = nearest[n], best_at = n;
    }
    last = best_at;
  }
}

}  // namespace

void fps(const FpsArgs& a) {
  // parallel over B
  parallel_for(a.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      sample_cloud(a.points + 3 * b * a.N, a.lengths ? a.lengths[b] : a.N,
                   a.starts ? a.starts[b] : a.start, a.M, a.skip_near_origin, a.idx + b * a.M);
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
