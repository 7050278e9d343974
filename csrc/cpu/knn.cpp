// k nearest neighbors on the CPU.
//
// A query measures its distance to the points, a vector at a time, then finds by bisection a bound
// that at least k distances and few others keep; only those become keys (distance, index) and are
// sorted. In a small cloud all points are measured. A large one is sorted into buckets of
// neighbors with boxes, and regions of buckets: the nearest buckets give a first bound, and beyond
// them only buckets whose box lies within it are looked at. nearest.h and search.h hold the search.
#include "cpu/nearest.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

void knn(const KnnArgs& a) {
  const bool sorted = a.D == 3 && a.N >= kSortFrom;
  const auto prepare = [&](int64_t b) {
    return std::make_unique<BucketedCloud>(a.points + a.D * b * a.N, a.lengths ? a.lengths[b] : a.N,
                                           sorted, a.D, a.k);
  };
  const int64_t size = a.N * ((a.D + 2) / 3);  // of a cloud, in points of three coordinates
  const auto search = [&](const BucketedCloud& cloud, int64_t begin, int64_t end) {
    Nearest nearest(cloud, a.k);
    for (int64_t row = begin; row < end; ++row) {
      const float* query = a.queries + a.D * row;
      const float* points = a.points + 3 * (row / a.M) * a.N;
      const int64_t* key = nearest.search(query);
      for (int64_t slot = row * a.k; slot < (row + 1) * a.k; ++slot, ++key) {
        const int64_t n = index_of(*key);
        a.idx[slot] = n;
        if (a.sq_dist) a.sq_dist[slot] = distance_of(*key);
        for (int d = 0; a.patches && d < 3; ++d) {
          a.patches[3 * slot + d] = points[3 * n + d] - query[d];
        }
      }
    }
  };
  for_each_query(a.B, size, a.M, prepare, search);
}

}  // namespace dapt::cpu::DAPT_ISA
