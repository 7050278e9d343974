// k nearest neighbors on the CPU.
//
// Distances from a query to points are computed a vector at a time; the points within a bound that
// at least k of them, and few more, satisfy are then sorted. In a small cloud this covers all
// points. A large cloud is sorted into buckets of neighbors, the leaves of a tree of boxes, and its
// queries are visited along a space-filling curve, so that each can start from the result of the
// one before. nearest.h and search.h hold the search.
#include "cpu/nearest.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

struct Problem {
  Problem(const KnnArgs& a, int64_t b)
      : cloud(a.points + a.D * b * a.N, a.lengths ? a.lengths[b] : a.N,
              a.D == 3 && a.N >= kSortFrom, a.D, a.k) {
    if (cloud.sorted) order = curve_order(a.queries + 3 * b * a.M, a.M);
  }

  int64_t query(int64_t turn) const { return order ? order[turn] : turn; }

  BucketedCloud cloud;
  Buffer<int32_t> order;  // [M], in which the queries take turns; null: as they come
};

// Queries in curve order jump about in memory, which the hardware prefetcher cannot predict.
template <class T>
void fetch(const T* row, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + i);
}

}  // namespace

void knn(const KnnArgs& a) {
  const auto prepare = [&](int64_t b) { return std::make_unique<Problem>(a, b); };
  const int64_t size = a.N * ((a.D + 2) / 3);  // of a cloud, in units of 3-D points
  const auto search = [&](const Problem& problem, int64_t begin, int64_t end) {
    constexpr int64_t kAhead = 4;
    Nearest nearest(problem.cloud, a.k);
    for (int64_t turn = begin; turn < end; ++turn) {
      const int64_t first = turn / a.M * a.M;  // query of this cloud
      const int64_t row = first + problem.query(turn - first);
      const int64_t soon = first + problem.query(std::min(turn + kAhead, end - 1) - first);
      fetch(a.queries + a.D * soon, 1);
      const float* query = a.queries + a.D * row;
      const float* points = a.points + 3 * (row / a.M) * a.N;
      int64_t* idx = a.idx + row * a.k;
      float* sq_dist = a.sq_dist ? a.sq_dist + row * a.k : nullptr;
      fetch(idx, a.k), fetch(sq_dist, sq_dist ? a.k : 0);
      const int64_t* key = nearest.search(query);
      for (int64_t i = 0; i < a.k; ++i) idx[i] = index_of(key[i]);
      for (int64_t i = 0; sq_dist && i < a.k; ++i) sq_dist[i] = distance_of(key[i]);
      for (int64_t i = 0; a.patches && i < 3 * a.k; ++i) {
        a.patches[3 * row * a.k + i] = points[3 * idx[i / 3] + i % 3] - query[i % 3];
      }
    }
  };
  for_each_query(a.B, size, a.M, prepare, search);
}

}  // namespace dapt::cpu::DAPT_ISA
