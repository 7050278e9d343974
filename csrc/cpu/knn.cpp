// k nearest neighbours on the CPU.
#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

void knn(const KnnArgs& a) {
  // parallel over B * M
  parallel_for(a.B * a.M, 16, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<float, int64_t>> found;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / a.M, count = a.lengths ? a.lengths[b] : a.N;
      const float* query = a.queries + 3 * row;
      const float* points = a.points + 3 * b * a.N;
      found.resize(count);
      for (int64_t n = 0; n < count; ++n) found[n] = {squared_distance(query, points + 3 * n), n};
      std::partial_sort(found.begin(), found.begin() + a.k, found.end());
      for (int64_t j = 0; j < a.k; ++j) {
        const auto [distance, n] = found[j];
        a.idx[row * a.k + j] = n;
        if (a.sq_dist) a.sq_dist[row * a.k + j] = distance;
        for (int d = 0; a.patches && d < 3; ++d) {
          a.patches[3 * (row * a.k + j) + d] = points[3 * n + d] - query[d];
        }
      }
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
